/**
 * Ray inside Spark: the plugin that brings a RayManager into the driver's and every executor's JVM,
 * and the driver's API.
 *
 * <p>Java only carries: what is decided and done is in the native library (runtime/supervisor).
 */
package org.sparkray;
