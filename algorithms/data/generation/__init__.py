"""Making datasets with OGBench's oracles and scripted demonstrators."""
