package org.sparkray.minicluster;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.LockSupport;
import java.util.function.BooleanSupplier;

/**
 * Finds and kills what still runs in this cluster's containers.
 *
 * <p>A NodeManager signals only the process group that it started. Here nothing may be left, so a
 * process counts as ours when it descends from this JVM, or when its initial environment has
 * LOCAL_DIRS (which YARN gives to every container) inside our work directory.
 */
final class ContainerReaper {
  private final String localDirsPrefix;

  ContainerReaper(Path workDir) {
    this.localDirsPrefix = "LOCAL_DIRS=" + workDir + "/";
  }

  /**
   * Kills until two scans in a row find nothing, or the deadline passes; returns how many were
   * killed.
   */
  int killAll(long deadlineNanos) {
    int killed = 0;
    int emptyScans = 0;
    while (emptyScans < 2 && System.nanoTime() < deadlineNanos) {
      int found = killFound();
      emptyScans = found == 0 ? emptyScans + 1 : 0;
      killed += found;
      pause();
    }
    return killed;
  }

  /** Kills until {@code done} says so, or the deadline passes; returns how many were killed. */
  int killUntil(BooleanSupplier done, long deadlineNanos) {
    int killed = 0;
    while (!done.getAsBoolean() && System.nanoTime() < deadlineNanos) {
      killed += killFound();
      pause();
    }
    return killed;
  }

  private int killFound() {
    List<ProcessHandle> found = find();
    for (ProcessHandle process : found) {
      process.destroyForcibly();
    }
    return found.size();
  }

  private static void pause() {
    LockSupport.parkNanos(TimeUnit.MILLISECONDS.toNanos(20));
  }

  private List<ProcessHandle> find() {
    ProcessHandle self = ProcessHandle.current();
    Set<ProcessHandle> found = new HashSet<>(self.descendants().toList());
    for (ProcessHandle process : ProcessHandle.allProcesses().toList()) {
      if (process.pid() != self.pid() && isContainerProcess(process.pid())) {
        found.add(process);
      }
    }
    List<ProcessHandle> alive = new ArrayList<>();
    for (ProcessHandle process : found) {
      if (process.isAlive() && !isZombie(process.pid())) {
        alive.add(process);
      }
    }
    return alive;
  }

  private boolean isContainerProcess(long pid) {
    try {
      byte[] environment = Files.readAllBytes(Path.of("/proc", Long.toString(pid), "environ"));
      for (String entry : new String(environment, StandardCharsets.ISO_8859_1).split("\0")) {
        if (entry.startsWith(localDirsPrefix)) {
          return true;
        }
      }
      return false;
    } catch (IOException e) {
      return false; // It ended meanwhile, or it is another user's.
    }
  }

  private static boolean isZombie(long pid) {
    try {
      String stat =
          Files.readString(
              Path.of("/proc", Long.toString(pid), "stat"), StandardCharsets.ISO_8859_1);
      return stat.charAt(stat.lastIndexOf(')') + 2) == 'Z';
    } catch (IOException | StringIndexOutOfBoundsException e) {
      return true;
    }
  }
}
