"""Fused ops for CPUs in C++, each in one reading and one writing of memory, and the layers that call them."""
