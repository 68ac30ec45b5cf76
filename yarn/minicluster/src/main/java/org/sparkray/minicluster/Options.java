package org.sparkray.minicluster;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/**
 * What the command line says.
 *
 * @param workDir absolute directory for everything the cluster writes
 * @param nodeManagers number of NodeManagers
 * @param dataNodes number of DataNodes
 * @param memoryMb memory that each NodeManager offers, in MiB
 * @param vcores virtual cores that each NodeManager offers
 * @param memoryChecks whether a container over its memory is killed
 * @param deleteWorkDir whether the work directory is deleted at the end
 */
record Options(
    Path workDir,
    int nodeManagers,
    int dataNodes,
    int memoryMb,
    int vcores,
    boolean memoryChecks,
    boolean deleteWorkDir) {

  static final String HELP =
      """
      Usage: java -cp 'target/minicluster.jar:target/lib/*' org.sparkray.minicluster.MiniCluster [options]

      Runs a ResourceManager, NodeManagers and HDFS in this process until standard input ends or the
      parent process dies. Prints one line 'Ready {json}' on standard output when all of them serve.
      Then it answers commands on standard input, one line each, with one line 'Ok {json}' or 'Error {json}':
        applications                     every application and its state
        nodes                            the NodeManagers and what they use
        containers                       the containers that run
        kill-application APPLICATION_ID  what 'yarn application -kill' does
        kill-container CONTAINER_ID      SIGKILL by its NodeManager

      Options:
        --work-dir DIR       directory for everything that is written (required; made if missing)
        --node-managers N    NodeManagers (default 2)
        --data-nodes N       HDFS DataNodes (default 2)
        --memory-mb MB       memory that each NodeManager offers (default 8192)
        --vcores N           virtual cores that each NodeManager offers (default 8)
        --memory-checks      kill containers over their memory, checked every 500 ms (default off)
        --delete-work-dir    delete the work directory at the end
        --help               this text
      """;

  /** Thrown for a command line that makes no sense; the message is for the user. */
  static final class UsageException extends Exception {
    private static final long serialVersionUID = 1L;

    UsageException(String message) {
      super(message);
    }
  }

  /** Reads the command line; {@code --help} must have been handled by the caller. */
  static Options parse(String[] arguments) throws UsageException {
    Path workDir = null;
    int nodeManagers = 2;
    int dataNodes = 2;
    int memoryMb = 8192;
    int vcores = 8;
    boolean memoryChecks = false;
    boolean deleteWorkDir = false;
    List<String> left = new ArrayList<>(List.of(arguments));
    while (!left.isEmpty()) {
      String flag = left.remove(0);
      switch (flag) {
        case "--work-dir" -> workDir = Path.of(value(flag, left)).toAbsolutePath().normalize();
        case "--node-managers" -> nodeManagers = positive(flag, left);
        case "--data-nodes" -> dataNodes = positive(flag, left);
        case "--memory-mb" -> memoryMb = positive(flag, left);
        case "--vcores" -> vcores = positive(flag, left);
        case "--memory-checks" -> memoryChecks = true;
        case "--delete-work-dir" -> deleteWorkDir = true;
        default ->
            throw new UsageException("unknown option " + flag + "; --help lists the options");
      }
    }
    if (workDir == null) {
      throw new UsageException("--work-dir is required");
    }
    return new Options(
        workDir, nodeManagers, dataNodes, memoryMb, vcores, memoryChecks, deleteWorkDir);
  }

  private static String value(String flag, List<String> left) throws UsageException {
    if (left.isEmpty()) {
      throw new UsageException(flag + " needs a value");
    }
    return left.remove(0);
  }

  private static int positive(String flag, List<String> left) throws UsageException {
    String text = value(flag, left);
    try {
      int number = Integer.parseInt(text);
      if (number > 0) {
        return number;
      }
    } catch (NumberFormatException e) {
      // Falls through to the sentence below.
    }
    throw new UsageException(flag + " needs a positive whole number, not '" + text + "'");
  }
}
