/**
 * The wire format of protobuf, as far as Java looks into the messages of {@code bridge.proto}:
 * Python and Rust make and read them, and Java carries them. A protobuf library in the jar would
 * clash with those that Spark and the user's jars bring.
 */
package org.sparkray.wire;
