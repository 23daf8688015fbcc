module github.com/warmtier/warmtier/warmtierresp

go 1.26.0

require (
	github.com/stretchr/testify v1.12.1
	github.com/tidwall/redcon v1.6.4
	github.com/warmtier/warmtier v0.1.0
)

require (
	github.com/edsrzf/mmap-go v1.2.0 // indirect
	github.com/tidwall/btree v1.1.0 // indirect
	github.com/tidwall/match v1.1.1 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace github.com/warmtier/warmtier => ../
