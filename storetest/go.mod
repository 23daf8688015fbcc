module github.com/warmtier/warmtier/storetest

go 1.26.0
