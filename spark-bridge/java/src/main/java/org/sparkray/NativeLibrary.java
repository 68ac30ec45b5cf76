package org.sparkray;

import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.nio.channels.FileChannel;
import java.nio.channels.FileLock;
import java.nio.file.DirectoryStream;
import java.nio.file.FileVisitResult;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.nio.file.SimpleFileVisitor;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.nio.file.attribute.BasicFileAttributes;
import java.nio.file.attribute.PosixFilePermissions;
import java.nio.file.attribute.UserPrincipal;
import java.util.ArrayList;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Set;

/**
 * Loads {@code libsparkray_jni.so} and lays out {@code sparkrayd}, both from the jar, in a private
 * directory of this process. In a YARN container that directory is inside the container, elsewhere
 * in the temporary directory; a file system that refuses to run programs is passed over. The
 * directory is deleted when the JVM ends.
 *
 * <p>It is done once; a failure is remembered and repeated.
 */
public final class NativeLibrary {
  /** A directory that has the two files already, instead of the jar's. */
  static final String DIRECTORY_VARIABLE = "SPARKRAY_NATIVE_DIR";

  private static final String LIBRARY = "libsparkray_jni.so";
  private static final String PROGRAM = "sparkrayd";
  private static final String RESOURCES = "/org/sparkray/native/linux-";
  private static final String PREFIX = "sparkray-jvm-";

  /** Held locked by the process that the directory belongs to, for as long as it lives. */
  private static final String LOCK = "lock";

  /** A younger directory may belong to a process that has not locked it yet. */
  private static final long LEFT_BEHIND_MILLIS = 60_000;

  private static final String DELETE_AT_END =
      "trap '' INT TERM HUP; read -r nothing; n=0; while [ $n -lt 20 ] && [ -e \"$1\" ]; do rm -rf -- \"$1\" || sleep 0.1; "
          + "n=$((n + 1)); done";

  private static Path workDirectory;

  /** Held, because its standard input is what it waits for. */
  private static Process afterThisProcess;

  /** Never closed: closing it would give up the lock. */
  private static FileChannel lock;

  private static Path program;
  private static SparkRayException failure;

  private NativeLibrary() {}

  /**
   * Loads the library, unless that was done before.
   *
   * @throws SparkRayException when it cannot be loaded; the same at every later call
   */
  public static synchronized void load() {
    if (failure != null) {
      throw failure;
    }
    if (program != null) {
      return;
    }
    try {
      checkSystem();
      program = loadSomewhere();
    } catch (SparkRayException e) {
      failure = e;
      throw e;
    } catch (IOException | RuntimeException | LinkageError e) {
      failure =
          new SparkRayException(
              ErrorCode.INTERNAL, "cannot load sparkray's native library: " + e.getMessage(), e);
      throw failure;
    }
  }

  /** Path of {@code sparkrayd}. */
  static synchronized Path program() {
    load();
    return program;
  }

  /** A directory that only this user can read and that is deleted when the JVM ends. */
  static synchronized Path workDirectory() {
    load();
    return workDirectory;
  }

  private static void checkSystem() {
    String system = System.getProperty("os.name", "");
    if (!system.equals("Linux")) {
      throw new SparkRayException(
          ErrorCode.INTERNAL, "sparkray runs on Linux, this is " + system + ": use such a machine");
    }
  }

  /** The machine's name as the jar's directories have it, which is the kernel's. */
  static String machine(String nameInJava) {
    return nameInJava.equals("amd64") ? "x86_64" : nameInJava;
  }

  private static Path loadSomewhere() throws IOException {
    List<String> refusals = new ArrayList<>();
    LinkageError last = null;
    for (Path base : candidates()) {
      deleteLeftBehind(base);
      Path directory;
      try {
        directory =
            Files.createTempDirectory(
                base,
                PREFIX,
                PosixFilePermissions.asFileAttribute(PosixFilePermissions.fromString("rwx------")));
      } catch (IOException e) {
        refusals.add(base + ": " + e);
        continue;
      }
      deleteAtExit(directory);
      try {
        lock = lock(directory);
        Path loaded = loadFrom(directory);
        workDirectory = directory;
        deleteWhenKilled(directory);
        return loaded;
      } catch (IOException e) {
        refusals.add(base + ": " + e);
      } catch (UnsatisfiedLinkError e) {
        // Mounted noexec, most likely.
        refusals.add(base + ": " + e.getMessage());
        last = e;
      }
      delete(directory);
    }
    throw new SparkRayException(
        ErrorCode.INTERNAL,
        "sparkray's native library can be loaded from no directory of this host: "
            + String.join("; ", refusals),
        last);
  }

  private static Path loadFrom(Path directory) throws IOException {
    String prepared = System.getenv(DIRECTORY_VARIABLE);
    if (prepared != null && !prepared.isEmpty()) {
      System.load(Paths.get(prepared, LIBRARY).toAbsolutePath().toString());
      return Paths.get(prepared, PROGRAM).toAbsolutePath();
    }
    Path library = extract(LIBRARY, directory);
    System.load(library.toString());
    // It is mapped: the name is of no use any more.
    Files.delete(library);
    return extract(PROGRAM, directory);
  }

  private static Path extract(String name, Path directory) throws IOException {
    Path target = directory.resolve(name);
    String machine = machine(System.getProperty("os.arch", ""));
    String resource = RESOURCES + machine + "/" + name;
    try (InputStream content = NativeLibrary.class.getResourceAsStream(resource)) {
      if (content == null) {
        throw new SparkRayException(
            ErrorCode.INTERNAL,
            "sparkray's jar has no "
                + name
                + " for Linux on "
                + machine
                + ": use the sparkray.jar that a sparkray wheel for such machines brings");
      }
      Files.copy(content, target, StandardCopyOption.REPLACE_EXISTING);
    }
    Files.setPosixFilePermissions(target, PosixFilePermissions.fromString("rwx------"));
    return target.toAbsolutePath();
  }

  /** The container's directory first, so that the files end with it; then the usual places. */
  private static Set<Path> candidates() {
    Set<Path> found = new LinkedHashSet<>();
    if (System.getenv("CONTAINER_ID") != null) {
      found.add(Paths.get("").toAbsolutePath());
    }
    found.add(Paths.get(System.getProperty("java.io.tmpdir", "/tmp")).toAbsolutePath());
    String localDirectories = System.getenv("LOCAL_DIRS");
    if (localDirectories != null) {
      for (String directory : localDirectories.split(",")) {
        found.add(Paths.get(directory).toAbsolutePath());
      }
    }
    found.add(Paths.get("/var/tmp"));
    found.add(Paths.get("/dev/shm"));
    found.removeIf(path -> !path.toFile().isDirectory() || !path.toFile().canWrite());
    return found;
  }

  private static FileChannel lock(Path directory) throws IOException {
    FileChannel channel =
        FileChannel.open(
            directory.resolve(LOCK), StandardOpenOption.CREATE, StandardOpenOption.WRITE);
    if (channel.tryLock() == null) {
      channel.close();
      throw new IOException(directory + " is locked by another process");
    }
    return channel;
  }

  /**
   * Deletes directories of this user's processes that were killed: nobody holds their lock any
   * more.
   */
  static void deleteLeftBehind(Path base) {
    try (DirectoryStream<Path> found = Files.newDirectoryStream(base, PREFIX + "*")) {
      UserPrincipal self = Files.getOwner(Paths.get("/proc/self"));
      long before = System.currentTimeMillis() - LEFT_BEHIND_MILLIS;
      for (Path directory : found) {
        boolean ours = Files.getOwner(directory, LinkOption.NOFOLLOW_LINKS).equals(self);
        Path file = directory.resolve(LOCK);
        if (!ours
            || !Files.isRegularFile(file, LinkOption.NOFOLLOW_LINKS)
            || Files.getLastModifiedTime(file).toMillis() > before) {
          continue;
        }
        try (FileChannel channel = FileChannel.open(file, StandardOpenOption.WRITE);
            FileLock free = channel.tryLock()) {
          if (free != null) {
            delete(directory);
          }
        }
      }
    } catch (IOException | RuntimeException e) {
      // Somebody else deletes it, or it is not ours to delete.
      return;
    }
  }

  private static void deleteAtExit(Path directory) {
    Thread hook = new Thread(() -> delete(directory), "sparkray-delete");
    try {
      Runtime.getRuntime().addShutdownHook(hook);
    } catch (IllegalStateException e) {
      // The JVM ends already: whoever asked will not get far.
      new File(directory.toString()).deleteOnExit();
    }
  }

  /**
   * A container's directory ends with it. Elsewhere a shell waits for the end of this JVM, however
   * it comes: then its standard input ends. It tries until the processes that this JVM leaves
   * behind have ended too.
   */
  private static void deleteWhenKilled(Path directory) {
    if (System.getenv("CONTAINER_ID") != null) {
      return;
    }
    File nothing = new File("/dev/null");
    try {
      ProcessBuilder builder =
          new ProcessBuilder(
              "/bin/sh", "-c", DELETE_AT_END, "sparkray-delete", directory.toString());
      builder.environment().clear();
      builder.directory(new File("/")).redirectOutput(nothing).redirectError(nothing);
      afterThisProcess = builder.start();
    } catch (IOException e) {
      // The next JVM of this user deletes it.
      return;
    }
  }

  private static void delete(Path directory) {
    try {
      Files.walkFileTree(
          directory,
          new SimpleFileVisitor<Path>() {
            @Override
            public FileVisitResult visitFile(Path file, BasicFileAttributes attributes)
                throws IOException {
              Files.deleteIfExists(file);
              return FileVisitResult.CONTINUE;
            }

            @Override
            public FileVisitResult visitFileFailed(Path file, IOException error) {
              return FileVisitResult.CONTINUE;
            }

            @Override
            public FileVisitResult postVisitDirectory(Path visited, IOException error)
                throws IOException {
              Files.deleteIfExists(visited);
              return FileVisitResult.CONTINUE;
            }
          });
    } catch (IOException e) {
      // A file appeared meanwhile; the container's or host's own cleaning finds it.
      return;
    }
  }
}
