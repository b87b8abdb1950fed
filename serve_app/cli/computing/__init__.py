"""Where commands of consolidation compute: on which device, and in which processes."""
