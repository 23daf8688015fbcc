module github.com/warmtier/warmtier/adapters/sessions

go 1.26.0

require (
	github.com/alexedwards/scs/v2 v2.9.0
	github.com/gofiber/storage v1.3.3
	github.com/stretchr/testify v1.12.1
	github.com/warmtier/warmtier v0.1.0
)

require (
	github.com/edsrzf/mmap-go v1.2.0 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
)

replace github.com/warmtier/warmtier => ../../
