module github.com/warmtier/warmtier

go 1.26.0

require (
	github.com/edsrzf/mmap-go v1.2.0
	golang.org/x/sync v0.24.0
	golang.org/x/sys v0.49.0
)

require github.com/anishathalye/porcupine v1.3.1

require (
	github.com/stretchr/testify v1.12.1
	go.yaml.in/yaml/v3 v3.0.5 // indirect
)
