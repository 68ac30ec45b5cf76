package org.sparkray;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.nio.file.StandardOpenOption;
import java.nio.file.attribute.FileTime;
import java.time.Instant;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Where the jar's files for a machine are; which directories of killed processes are deleted. */
class NativeLibraryTest {
  @TempDir Path base;

  private Path directory(String name, boolean hasLock, int ageSeconds) throws IOException {
    Path directory = Files.createDirectory(base.resolve(name));
    Files.createFile(directory.resolve("sparkrayd"));
    if (hasLock) {
      Path lock = Files.createFile(directory.resolve("lock"));
      Files.setLastModifiedTime(lock, FileTime.from(Instant.now().minusSeconds(ageSeconds)));
    }
    return directory;
  }

  @Test
  void theJarsDirectoriesHaveTheKernelsNamesOfMachines() {
    assertEquals("x86_64", NativeLibrary.machine("amd64"));
    assertEquals("aarch64", NativeLibrary.machine("aarch64"));
  }

  @Test
  void onlyOldDirectoriesOfOursWithALockThatNobodyHoldsAreDeleted() throws IOException {
    Path left = directory("sparkray-jvm-1", true, 120);
    Path young = directory("sparkray-jvm-2", true, 1);
    Path without = directory("sparkray-jvm-3", false, 0);
    Path foreign = directory("other-jvm-4", true, 120);
    NativeLibrary.deleteLeftBehind(base);
    assertFalse(Files.exists(left));
    assertTrue(Files.exists(young));
    assertTrue(Files.exists(without));
    assertTrue(Files.exists(foreign));
  }

  @Test
  void aDirectoryThatAProcessHoldsIsLeftToIt() throws Exception {
    Path held = directory("sparkray-jvm-1", true, 120);
    // Another process, because the locks of one are no obstacle to itself.
    Path java = Paths.get(System.getProperty("java.home"), "bin", "java");
    Process holder =
        new ProcessBuilder(
                java.toString(),
                "-cp",
                System.getProperty("java.class.path"),
                Holder.class.getName(),
                held.resolve("lock").toString())
            .start();
    try {
      assertEquals('L', holder.getInputStream().read());
      NativeLibrary.deleteLeftBehind(base);
      assertTrue(Files.exists(held));
    } finally {
      holder.destroy();
      holder.waitFor();
    }
    NativeLibrary.deleteLeftBehind(base);
    assertFalse(Files.exists(held));
  }

  /** Holds a file's lock until it is ended. */
  static final class Holder {
    public static void main(String[] arguments) throws IOException {
      FileChannel channel = FileChannel.open(Paths.get(arguments[0]), StandardOpenOption.WRITE);
      System.out.print(channel.tryLock() == null ? 'F' : 'L');
      System.out.flush();
      System.in.read();
    }
  }
}
