package olricengine

// BeforeRemovals makes an engine call fn before it removes an entry from the store, which fails with its error.
func BeforeRemovals(opts *Options, fn func() error) { opts.removing = fn }
