module github.com/warmtier/warmtier/storetest/peers

go 1.26.0

require (
	github.com/warmtier/warmtier v0.1.0
	github.com/warmtier/warmtier/storetest v0.1.0
)

require (
	github.com/edsrzf/mmap-go v1.2.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace (
	github.com/warmtier/warmtier => ../..
	github.com/warmtier/warmtier/storetest => ../
)
