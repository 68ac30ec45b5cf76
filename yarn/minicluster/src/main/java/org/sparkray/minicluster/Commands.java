package org.sparkray.minicluster;

import java.io.IOException;
import java.util.ArrayList;
import java.util.EnumSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.yarn.api.records.ApplicationId;
import org.apache.hadoop.yarn.api.records.ApplicationReport;
import org.apache.hadoop.yarn.api.records.ContainerId;
import org.apache.hadoop.yarn.api.records.NodeReport;
import org.apache.hadoop.yarn.api.records.NodeState;
import org.apache.hadoop.yarn.api.records.SignalContainerCommand;
import org.apache.hadoop.yarn.client.api.YarnClient;
import org.apache.hadoop.yarn.exceptions.YarnException;
import org.apache.hadoop.yarn.server.MiniYARNCluster;
import org.apache.hadoop.yarn.server.nodemanager.containermanager.container.Container;

/** Answers the commands that come on standard input, through YARN's public client. */
final class Commands implements AutoCloseable {
  private final MiniYARNCluster yarn;
  private final int nodeManagers;
  private final YarnClient client;

  Commands(MiniYARNCluster yarn, int nodeManagers, Configuration conf) {
    this.yarn = yarn;
    this.nodeManagers = nodeManagers;
    this.client = YarnClient.createYarnClient();
    client.init(conf);
    client.start();
  }

  /** Runs one command line and returns the line that answers it. */
  String answer(String line) {
    String[] words = line.strip().split("\\s+");
    try {
      return "Ok " + Json.write(run(words));
    } catch (YarnException | IOException | IllegalArgumentException e) {
      return "Error " + Json.write(Map.of("message", String.valueOf(e.getMessage())));
    }
  }

  private Object run(String[] words) throws YarnException, IOException {
    String argument = words.length > 1 ? words[1] : null;
    switch (words[0]) {
      case "applications":
        return applications();
      case "nodes":
        return nodes();
      case "containers":
        return containers();
      case "kill-application":
        client.killApplication(ApplicationId.fromString(required(argument)));
        return Map.of();
      case "kill-container":
        client.signalToContainer(
            ContainerId.fromString(required(argument)), SignalContainerCommand.FORCEFUL_SHUTDOWN);
        return Map.of();
      default:
        throw new IllegalArgumentException(
            "unknown command " + words[0] + "; --help lists the commands");
    }
  }

  private static String required(String argument) {
    if (argument == null) {
      throw new IllegalArgumentException("the command needs an id");
    }
    return argument;
  }

  private List<Object> applications() throws YarnException, IOException {
    List<Object> rows = new ArrayList<>();
    for (ApplicationReport report : client.getApplications()) {
      Map<String, Object> row = new LinkedHashMap<>();
      row.put("id", report.getApplicationId());
      row.put("name", report.getName());
      row.put("user", report.getUser());
      row.put("state", report.getYarnApplicationState());
      row.put("final_status", report.getFinalApplicationStatus());
      row.put("diagnostics", report.getDiagnostics() == null ? "" : report.getDiagnostics());
      rows.add(row);
    }
    return rows;
  }

  private List<Object> nodes() throws YarnException, IOException {
    List<Object> rows = new ArrayList<>();
    for (NodeReport report :
        client.getNodeReports(EnumSet.allOf(NodeState.class).toArray(NodeState[]::new))) {
      Map<String, Object> row = new LinkedHashMap<>();
      row.put("id", report.getNodeId());
      row.put("state", report.getNodeState());
      row.put("containers", report.getNumContainers());
      row.put("memory_mb", report.getCapability().getMemorySize());
      row.put("vcores", report.getCapability().getVirtualCores());
      rows.add(row);
    }
    return rows;
  }

  private List<Object> containers() {
    List<Object> rows = new ArrayList<>();
    for (int i = 0; i < nodeManagers; i++) {
      var context = yarn.getNodeManager(i).getNMContext();
      for (Container container : context.getContainers().values()) {
        Map<String, Object> row = new LinkedHashMap<>();
        row.put("id", container.getContainerId());
        row.put("node", context.getNodeId());
        row.put("state", container.getContainerState());
        row.put("memory_mb", container.getResource().getMemorySize());
        rows.add(row);
      }
    }
    return rows;
  }

  @Override
  public void close() {
    client.stop();
  }
}
