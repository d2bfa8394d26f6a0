"""Problems with their inputs, and the eager definitions that results are compared with."""
