package cluster

import "time"

// ExpireEvery makes a node remove what has expired more often than it would.
func ExpireEvery(opts *Options, interval time.Duration) { opts.expireInterval = interval }
