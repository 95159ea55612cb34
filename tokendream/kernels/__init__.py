"""The same arithmetic, faster: C++ for CPUs, captured updates for GPUs."""
