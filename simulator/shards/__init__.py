"""Work in shards: done here or on a cluster, kept on disk as it is finished, never lost and never counted twice."""
