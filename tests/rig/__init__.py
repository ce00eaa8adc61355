"""What end-to-end and fault tests are built from: real processes, real clients, and faults on demand."""
