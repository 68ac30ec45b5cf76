package org.sparkray.data;

import java.io.File;
import java.util.NoSuchElementException;
import org.apache.spark.SparkEnv;
import org.apache.spark.sql.internal.SQLConf;

/**
 * Whether the batches of a scan are held until their task ends. Spark 4.3 gives columns to Python
 * UDFs as they are and reads batches again after it has asked for later ones, to put their other
 * columns beside the results. Other Sparks look at one batch at a time, and take copies of what
 * they keep.
 */
final class Holding {
  private static final String COLUMNS_TO_UDFS =
      "spark.sql.execution.arrow.pythonUDF.columnarInput.enabled";

  private Holding() {}

  /** On the driver, for the session that plans. */
  static boolean isNeeded() {
    try {
      return Boolean.parseBoolean(SQLConf.get().getConfString(COLUMNS_TO_UDFS));
    } catch (NoSuchElementException unknown) {
      return false;
    }
  }

  /** In a task: where a block goes that is held and for which the object store has no room. */
  static String directory(int block) {
    File[] directories = SparkEnv.get().blockManager().diskBlockManager().localDirs();
    return directories[block % directories.length].getPath();
  }
}
