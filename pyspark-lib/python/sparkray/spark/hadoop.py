"""Checks of a Hadoop client configuration before Spark sees it.

Spark's own YARN client retries for many minutes when an address is wrong, and says so only in its log.
"""

from __future__ import annotations

import os
import pathlib
import re
import socket
import urllib.parse
import xml.etree.ElementTree
from collections.abc import Mapping

from sparkray.spark.errors import ClusterUnreachableError, SparkSetupError

CONNECT_SECONDS = 3.0
RESOURCE_MANAGER_PORT = 8032
NAME_NODE_PORT = 8020
_NEEDED_FILES = ("core-site.xml", "yarn-site.xml")
_CLIENT_FILES = ("core-site.xml", "hdfs-site.xml", "yarn-site.xml")
_VARIABLE = re.compile(r"\$\{([^${}]+)\}")
_MAX_SUBSTITUTIONS = 20

Address = tuple[str, int]


def find_conf_dir(hadoop_conf: str | os.PathLike[str] | None, environ: Mapping[str, str] = os.environ) -> str:
    """The directory of the Hadoop client configuration.

    Arguments:
        hadoop_conf: the directory; None for the value of HADOOP_CONF_DIR.
        environ: where HADOOP_CONF_DIR is looked for.

    Returns:
        Its absolute path.

    Raises:
        SparkSetupError: none is named, it is not a directory, or the files that name the cluster are not in it.
    """
    given = os.fspath(hadoop_conf) if hadoop_conf else environ.get("HADOOP_CONF_DIR", "")
    if not given:
        raise SparkSetupError(
            "no Hadoop configuration: pass hadoop_conf= or set HADOOP_CONF_DIR to the directory with "
            "core-site.xml and yarn-site.xml"
        )
    directory = pathlib.Path(given).expanduser().absolute()
    if not directory.exists():
        raise SparkSetupError(f"the Hadoop configuration directory {directory} does not exist")
    if not directory.is_dir():
        raise SparkSetupError(f"the Hadoop configuration {directory} is not a directory")
    missing = [name for name in _NEEDED_FILES if not (directory / name).is_file()]
    if missing:
        raise SparkSetupError(f"the Hadoop configuration directory {directory} has no {' and no '.join(missing)}")
    return str(directory)


def check_reachable(conf_dir: str, seconds: float = CONNECT_SECONDS) -> None:
    """Connects once to the ResourceManager and to the NameNode.

    Arguments:
        conf_dir: directory of the Hadoop client configuration.
        seconds: deadline for each address.

    Raises:
        SparkSetupError: the configuration cannot be read or names no ResourceManager.
        ClusterUnreachableError: no address of one of the two takes a connection.
    """
    properties = read_properties(conf_dir)
    managers = resource_manager_addresses(properties)
    if not managers:
        raise SparkSetupError(
            f"{conf_dir}/yarn-site.xml names no ResourceManager: set yarn.resourcemanager.address or .hostname"
        )
    _connect_to_one("ResourceManager", managers, "yarn.resourcemanager.address", conf_dir, seconds)
    name_nodes = name_node_addresses(properties)
    if name_nodes:
        _connect_to_one("NameNode", name_nodes, "fs.defaultFS", conf_dir, seconds)


def read_properties(conf_dir: str) -> dict[str, str]:
    """All properties of the client's configuration files, with ``${other.property}`` replaced."""
    raw: dict[str, str] = {}
    for name in _CLIENT_FILES:
        path = pathlib.Path(conf_dir) / name
        if not path.is_file():
            continue
        try:
            root = xml.etree.ElementTree.parse(path).getroot()
        except (xml.etree.ElementTree.ParseError, OSError) as error:
            raise SparkSetupError(f"{path} cannot be read as a Hadoop configuration: {error}") from error
        for element in root.iter("property"):
            raw[(element.findtext("name") or "").strip()] = (element.findtext("value") or "").strip()
    return {name: _substitute(value, raw) for name, value in raw.items()}


def resource_manager_addresses(properties: Mapping[str, str]) -> list[Address]:
    """The client addresses of the ResourceManagers: one, or several when they are highly available."""
    if properties.get("yarn.resourcemanager.ha.enabled", "").lower() == "true":
        suffixes = [f".{name}" for name in _split(properties.get("yarn.resourcemanager.ha.rm-ids", ""))]
    else:
        suffixes = [""]
    addresses = []
    for suffix in suffixes:
        address = properties.get(f"yarn.resourcemanager.address{suffix}")
        address = address or properties.get(f"yarn.resourcemanager.hostname{suffix}")
        if address:
            addresses.append(_host_and_port(address, RESOURCE_MANAGER_PORT))
    return addresses


def name_node_addresses(properties: Mapping[str, str]) -> list[Address]:
    """The addresses of the default file system's NameNodes; empty when it is not HDFS."""
    default = urllib.parse.urlsplit(properties.get("fs.defaultFS") or properties.get("fs.default.name", ""))
    if default.scheme != "hdfs" or not default.netloc:
        return []
    nameservice = default.netloc
    if nameservice not in _split(properties.get("dfs.nameservices", "")):
        return [_host_and_port(nameservice, NAME_NODE_PORT)]
    addresses = []
    for name_node in _split(properties.get(f"dfs.ha.namenodes.{nameservice}", "")):
        address = properties.get(f"dfs.namenode.rpc-address.{nameservice}.{name_node}")
        if address:
            addresses.append(_host_and_port(address, NAME_NODE_PORT))
    return addresses


def _connect_to_one(what: str, addresses: list[Address], key: str, conf_dir: str, seconds: float) -> None:
    failures = []
    for host, port in addresses:
        try:
            socket.create_connection((host, port), timeout=seconds).close()
            return
        except OSError as error:
            failures.append(f"{host}:{port} ({error.strerror or error})")
    raise ClusterUnreachableError(
        f"the {what} does not answer at {', '.join(failures)}: check that it runs and {key} in {conf_dir}"
    )


def _substitute(value: str, properties: Mapping[str, str]) -> str:
    for _ in range(_MAX_SUBSTITUTIONS):
        match = _VARIABLE.search(value)
        if match is None or match[1] not in properties:
            break
        value = value[: match.start()] + properties[match[1]] + value[match.end() :]
    return value


def _host_and_port(text: str, default_port: int) -> Address:
    try:
        parts = urllib.parse.urlsplit(f"//{text}")
        return parts.hostname or text, parts.port or default_port
    except ValueError as error:
        raise SparkSetupError(f"{text!r} in the Hadoop configuration is not an address: {error}") from error


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
