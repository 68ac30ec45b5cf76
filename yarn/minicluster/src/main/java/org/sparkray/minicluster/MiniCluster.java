package org.sparkray.minicluster;

import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStream;
import java.io.PrintStream;
import java.lang.ProcessBuilder.Redirect;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.permission.FsPermission;
import org.apache.hadoop.hdfs.MiniDFSCluster;
import org.apache.hadoop.yarn.conf.YarnConfiguration;
import org.apache.hadoop.yarn.server.MiniYARNCluster;
import org.apache.hadoop.yarn.server.nodemanager.containermanager.container.Container;
import org.apache.hadoop.yarn.server.nodemanager.containermanager.container.ContainerState;
import org.apache.log4j.FileAppender;
import org.apache.log4j.Level;
import org.apache.log4j.Logger;
import org.apache.log4j.PatternLayout;

/**
 * A real ResourceManager, real NodeManagers and a real HDFS in one JVM, as a child of a test or of
 * the demo.
 *
 * <p>Invariants:
 *
 * <ol>
 *   <li>It ends when its standard input ends or when its parent dies, whichever is seen first, and
 *       nothing of its containers is left then.
 *   <li>Every port is chosen by the kernel; every file is in the work directory.
 *   <li>Standard output carries the protocol only (Ready, Ok, Error); all else goes to the log.
 *   <li>The client's conf directory has addresses only: the cluster's own configuration names test
 *       classes that a client does not have.
 * </ol>
 */
public final class MiniCluster {
  private static final long STOP_SECONDS = 8;
  private static final long READY_SECONDS = 60;
  private static final long PARENT_POLL_MILLIS = 200;

  /** The addresses that a client needs, and what makes its writes cheap here. */
  private static final List<String> CORE_KEYS = List.of("fs.defaultFS");

  private static final List<String> HDFS_KEYS = List.of("dfs.replication");

  private static final List<String> YARN_KEYS =
      List.of(
          YarnConfiguration.RM_HOSTNAME,
          YarnConfiguration.RM_ADDRESS,
          YarnConfiguration.RM_SCHEDULER_ADDRESS,
          YarnConfiguration.RM_ADMIN_ADDRESS,
          YarnConfiguration.RM_RESOURCE_TRACKER_ADDRESS,
          YarnConfiguration.RM_WEBAPP_ADDRESS);

  private final Options options;
  private final Path confDir;
  private final Path logFile;
  private final ContainerReaper reaper;
  private final CompletableFuture<String> reasonToEnd = new CompletableFuture<>();
  private final CompletableFuture<Commands> commands = new CompletableFuture<>();
  private MiniDFSCluster hdfs;
  private MiniYARNCluster yarn;

  private MiniCluster(Options options) {
    this.options = options;
    this.confDir = options.workDir().resolve("conf");
    this.logFile = options.workDir().resolve("minicluster.log");
    this.reaper = new ContainerReaper(options.workDir());
  }

  /** Runs until standard input ends or the parent dies. */
  public static void main(String[] arguments) {
    if (List.of(arguments).contains("--help")) {
      System.out.print(Options.HELP);
      return;
    }
    Options options;
    try {
      options = Options.parse(arguments);
    } catch (Options.UsageException e) {
      System.err.println("minicluster: " + e.getMessage());
      System.exit(2);
      return;
    }
    PrintStream protocol = System.out;
    // Hadoop prints to System.out here and there.
    System.setOut(new PrintStream(OutputStream.nullOutputStream(), false, StandardCharsets.UTF_8));
    int exitCode = new MiniCluster(options).run(protocol);
    // Hadoop leaves threads that are not daemons, and its shutdown hooks have nothing left to do.
    Runtime.getRuntime().halt(exitCode);
  }

  private int run(PrintStream protocol) {
    ProcessHandle parent = ProcessHandle.current().parent().orElse(null);
    daemon("parent-watch", () -> watchParent(parent));
    daemon("standard-input", () -> serveStandardInput(protocol));
    try {
      Files.createDirectories(confDir);
      logTo(logFile);
      // Jetty leaves its directories there.
      Path temporary = Files.createDirectories(options.workDir().resolve("tmp"));
      System.setProperty("java.io.tmpdir", temporary.toString());
      start();
      writeClientConf();
    } catch (Exception e) {
      Logger.getRootLogger().fatal("the mini cluster did not start", e);
      System.err.println("minicluster: did not start: " + e + "; the log is " + logFile);
      reaper.killAll(deadline());
      return 1;
    }
    Runtime.getRuntime().addShutdownHook(new Thread(() -> reaper.killAll(deadline()), "reaper"));
    protocol.println("Ready " + Json.write(readyFields()));
    protocol.flush();
    commands.complete(new Commands(yarn, options.nodeManagers(), yarn.getConfig()));
    Logger.getRootLogger().info("the mini cluster ends: " + reasonToEnd.join());
    stop();
    return 0;
  }

  private static void daemon(String name, Runnable work) {
    Thread thread = new Thread(work, name);
    thread.setDaemon(true);
    thread.start();
  }

  private static long deadline() {
    return System.nanoTime() + TimeUnit.SECONDS.toNanos(STOP_SECONDS);
  }

  /**
   * The second way to see the parent's death: another process may hold the pipe of our input open.
   */
  private void watchParent(ProcessHandle parent) {
    if (parent == null) {
      return;
    }
    while (ProcessHandle.current().parent().filter(parent::equals).isPresent()) {
      try {
        Thread.sleep(PARENT_POLL_MILLIS);
      } catch (InterruptedException e) {
        return;
      }
    }
    end("the parent process " + parent.pid() + " died");
  }

  private void serveStandardInput(PrintStream protocol) {
    var input = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    try {
      for (String line = input.readLine(); line != null; line = input.readLine()) {
        if (!line.isBlank()) {
          protocol.println(commands.join().answer(line));
          protocol.flush();
        }
      }
      end("standard input ended");
    } catch (IOException e) {
      end("standard input failed: " + e);
    }
  }

  private void end(String reason) {
    if (!commands.isDone()) {
      // Nothing was promised to anybody yet, so no container runs.
      deleteWorkDirIfAsked();
      Runtime.getRuntime().halt(1);
    }
    reasonToEnd.complete(reason);
  }

  private static void logTo(Path file) throws IOException {
    var appender =
        new FileAppender(new PatternLayout("%d{ISO8601} %-5p %c{2}: %m%n"), file.toString());
    Logger.getRootLogger().removeAllAppenders();
    Logger.getRootLogger().addAppender(appender);
    Logger.getRootLogger().setLevel(Level.INFO);
    // One line for each block and request: more than everything else together.
    Logger.getLogger("org.apache.hadoop.hdfs.server.namenode.FSNamesystem.audit")
        .setLevel(Level.WARN);
    Logger.getLogger("BlockStateChange").setLevel(Level.WARN);
  }

  private void start() throws Exception {
    // MiniYARNCluster and MiniDFSCluster put their files below this property.
    System.setProperty("test.build.data", options.workDir().resolve("data").toString());
    Configuration conf = ClusterConf.create(options);
    hdfs =
        new MiniDFSCluster.Builder(conf, options.workDir().resolve("data/hdfs").toFile())
            .numDataNodes(options.dataNodes())
            .build();
    hdfs.waitActive();
    openDirectories(hdfs.getFileSystem());
    YarnConfiguration yarnConf = new YarnConfiguration(conf);
    yarn = new MiniYARNCluster("yarn", options.nodeManagers(), 1, 1);
    yarn.init(yarnConf);
    yarn.start();
    if (!yarn.waitForNodeManagersToConnect(TimeUnit.SECONDS.toMillis(READY_SECONDS))) {
      throw new IOException("the NodeManagers did not register in " + READY_SECONDS + " s");
    }
  }

  /** Any HADOOP_USER_NAME can have a home and a staging directory. */
  private static void openDirectories(FileSystem fileSystem) throws IOException {
    FsPermission sticky = new FsPermission((short) 01777);
    for (String directory : List.of("/tmp", "/user")) {
      org.apache.hadoop.fs.Path path = new org.apache.hadoop.fs.Path(directory);
      fileSystem.mkdirs(path);
      fileSystem.setPermission(path, sticky);
    }
  }

  private void writeClientConf() throws IOException {
    Configuration cluster = yarn.getConfig();
    // The mini cluster leaves the wildcard address there, which no client can use.
    cluster.set(
        YarnConfiguration.RM_HOSTNAME, cluster.get(YarnConfiguration.RM_ADDRESS).split(":")[0]);
    writeConf("core-site.xml", CORE_KEYS);
    writeConf("hdfs-site.xml", HDFS_KEYS);
    writeConf("yarn-site.xml", YARN_KEYS);
  }

  private void writeConf(String name, List<String> keys) throws IOException {
    Configuration client = new Configuration(false);
    for (String key : keys) {
      client.set(key, yarn.getConfig().get(key));
    }
    try (OutputStream out = Files.newOutputStream(confDir.resolve(name))) {
      client.writeXml(out);
    }
  }

  private Map<String, Object> readyFields() {
    Map<String, Object> fields = new LinkedHashMap<>();
    fields.put("pid", ProcessHandle.current().pid());
    fields.put("work_dir", options.workDir());
    fields.put("conf_dir", confDir);
    fields.put("log_file", logFile);
    fields.put("container_logs", containerLogs());
    fields.put("hdfs", hdfs.getURI());
    fields.put("resource_manager", yarn.getConfig().get(YarnConfiguration.RM_ADDRESS));
    fields.put("resource_manager_web", yarn.getConfig().get(YarnConfiguration.RM_WEBAPP_ADDRESS));
    return fields;
  }

  private List<String> containerLogs() {
    List<String> directories = new ArrayList<>();
    for (int i = 0; i < options.nodeManagers(); i++) {
      directories.addAll(
          List.of(yarn.getNodeManager(i).getConfig().getStrings(YarnConfiguration.NM_LOG_DIRS)));
    }
    return directories;
  }

  /**
   * Stops the ResourceManager, so that nothing is started again, and kills until the NodeManagers
   * have seen the end of every container. NodeManagers and HDFS end with the JVM: stopping them
   * takes seconds and leaves nothing that halting does not.
   */
  private void stop() {
    long deadline = deadline();
    CompletableFuture<Void> stopped = new CompletableFuture<>();
    daemon(
        "stop",
        () -> {
          yarn.stopResourceManager(0);
          stopped.complete(null);
        });
    int killed = reaper.killUntil(() -> stopped.isDone() && allContainersDone(), deadline);
    killed += reaper.killAll(deadline);
    Logger.getRootLogger().info("stopped; killed " + killed + " processes of containers");
    deleteWorkDirIfAsked();
  }

  private boolean allContainersDone() {
    for (int i = 0; i < options.nodeManagers(); i++) {
      for (Container container : yarn.getNodeManager(i).getNMContext().getContainers().values()) {
        if (container.getContainerState() != ContainerState.DONE) {
          return false;
        }
      }
    }
    return true;
  }

  /**
   * By a process that goes on when this one is gone: until then threads of Hadoop write new files.
   */
  private void deleteWorkDirIfAsked() {
    if (!options.deleteWorkDir()) {
      return;
    }
    try {
      new ProcessBuilder("rm", "-rf", options.workDir().toString())
          .redirectInput(Redirect.from(new File("/dev/null")))
          .redirectOutput(Redirect.DISCARD)
          .redirectError(Redirect.DISCARD)
          .start();
    } catch (IOException e) {
      Logger.getRootLogger().error("cannot delete " + options.workDir(), e);
    }
  }
}
