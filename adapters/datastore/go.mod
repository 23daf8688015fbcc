module github.com/warmtier/warmtier/adapters/datastore

go 1.26.0

require (
	github.com/ipfs/go-datastore v0.9.2
	github.com/stretchr/testify v1.12.1
	github.com/warmtier/warmtier v0.1.0
)

require (
	github.com/edsrzf/mmap-go v1.2.0 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/ipfs/go-detect-race v0.0.1 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace github.com/warmtier/warmtier => ../../
