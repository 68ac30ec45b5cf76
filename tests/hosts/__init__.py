"""Several hosts, in network namespaces of this machine."""
