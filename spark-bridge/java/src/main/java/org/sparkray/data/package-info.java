/**
 * DataFrames into the executors' object stores and back.
 *
 * <p>Into the store: {@link org.sparkray.data.Feed} runs one job; each task stages the bytes of its
 * rows outside the heap, native code makes Arrow columns of them and writes blocks into its node's
 * store.
 *
 * <p>Out of the store: {@link org.sparkray.data.RayTableProvider} is a DataSource V2 whose columnar
 * readers wrap the mapped bytes of a block as Arrow vectors.
 *
 * <p>Who frees what: the addresses that {@link org.sparkray.data.BlockReader} hands out belong to
 * native code and are valid until it is closed, which is when the task completes. Arrow's vectors
 * over them own nothing: closing a vector frees only the validity bitmaps that Arrow made itself.
 * Rows staged by {@link org.sparkray.data.RowStage} belong to Java and are only read during the
 * call that passes them.
 */
package org.sparkray.data;
