"""Everything that proves mqlift: tests beside the parts they mirror, the rig they share, and the benchmarks."""
