package org.sparkray.minicluster;

import java.io.IOException;
import java.net.URI;
import java.net.URISyntaxException;
import java.nio.file.Files;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.ChecksumFs;
import org.apache.hadoop.fs.DelegateToFileSystem;
import org.apache.hadoop.fs.FsConstants;
import org.apache.hadoop.fs.LocalFileSystem;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.RawLocalFileSystem;
import org.apache.hadoop.fs.permission.FsPermission;

/**
 * Hadoop's local file system without a process for every chmod.
 *
 * <p>Where Hadoop's native library is missing it runs {@code chmod} for each file. A NodeManager
 * does that for each file of an archive that it unpacks: 5000 processes for a Python environment.
 * The resource core-site.xml puts these classes in the place of Hadoop's.
 */
final class QuickLocalFiles {
  private QuickLocalFiles() {}

  /** The one that differs. */
  static final class Raw extends RawLocalFileSystem {
    @Override
    public void setPermission(Path path, FsPermission permission) throws IOException {
      Files.setAttribute(pathToFile(path).toPath(), "unix:mode", (int) permission.toShort());
    }
  }

  /** For Hadoop's older interface to file systems. Public, because Hadoop makes it by its name. */
  public static final class Checked extends LocalFileSystem {
    /** Made by Hadoop. */
    public Checked() {
      super(new Raw());
    }
  }

  /** For Hadoop's newer interface to file systems. Public, because Hadoop makes it by its name. */
  public static final class AbstractChecked extends ChecksumFs {
    /** Made by Hadoop. */
    public AbstractChecked(URI uri, Configuration conf) throws IOException, URISyntaxException {
      super(new AbstractRaw(conf));
    }
  }

  private static final class AbstractRaw extends DelegateToFileSystem {
    AbstractRaw(Configuration conf) throws IOException, URISyntaxException {
      super(FsConstants.LOCAL_FS_URI, new Raw(), conf, FsConstants.LOCAL_FS_URI.getScheme(), false);
    }

    @Override
    public int getUriDefaultPort() {
      return -1; // A local file has no port.
    }

    @Override
    public boolean isValidName(String name) {
      return true; // The kernel says what is not.
    }
  }
}
