package main

import (
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/warmtier/warmtier"
)

// load stores every top-level declaration below dir under "file#name", and returns the memories in
// the order of their ids.
func load(ctx context.Context, store *warmtier.Store, dir string, p *progress) ([]*memory, error) {
	files, err := goFiles(dir)
	if err != nil {
		return nil, err
	}
	p.begin(fmt.Sprintf("loading %d files of Go source", len(files)), len(files))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan string)
	loaded := make([][]*memory, runtime.GOMAXPROCS(0))
	var workers sync.WaitGroup
	for i := range loaded {
		workers.Go(func() {
			for file := range work {
				memories, err := loadFile(store, dir, file)
				if err != nil {
					cancel(err)
				}
				loaded[i] = append(loaded[i], memories...)
				p.add()
			}
		})
	}
	for _, file := range files {
		if ctx.Err() != nil {
			break
		}
		work <- file
	}
	close(work)
	workers.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	memories := slices.Concat(loaded...)
	if len(memories) < 3 {
		return nil, fmt.Errorf("%s has too little Go source to show anything", dir)
	}
	slices.SortFunc(memories, func(a, b *memory) int { return strings.Compare(a.id, b.id) })
	return memories, nil
}

// goFiles lists the Go files below dir, by their paths in it. Directories named testdata hold files
// that are broken on purpose.
func goFiles(dir string) (files []string, err error) {
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && entry.Name() == "testdata":
			return filepath.SkipDir
		case !entry.Type().IsRegular() || filepath.Ext(path) != ".go":
			return nil
		}
		file, err := filepath.Rel(dir, path)
		files = append(files, file)
		return err
	})
	return files, err
}

// loadFile stores the declarations of one file.
func loadFile(store *warmtier.Store, dir, file string) ([]*memory, error) {
	source, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return nil, err
	}
	var memories []*memory
	taken := map[string]int{}
	for _, d := range declarations(source) {
		id := filepath.ToSlash(file) + "#" + d.name
		taken[id]++
		if n := taken[id]; n > 1 { // a file may have many func init and var _
			id = fmt.Sprintf("%s~%d", id, n)
		}
		if err := store.Put(id, d.source); err != nil {
			return nil, fmt.Errorf("%s: %w", id, err)
		}
		m := &memory{id: id}
		m.versions[0] = digestOf(d.source)
		memories = append(memories, m)
	}
	return memories, nil
}

// declaration is a top-level declaration with its doc comment.
type declaration struct {
	name   string
	source []byte
}

// declarations lists what source declares, as far as it can be parsed; imports have no name and are
// left out.
func declarations(source []byte) (list []declaration) {
	fset := token.NewFileSet()
	// In spite of an error, everything before it was parsed.
	file, _ := parser.ParseFile(fset, "", source, parser.ParseComments|parser.SkipObjectResolution)
	if file == nil {
		return nil
	}
	offset := fset.File(file.FileStart).Offset
	for _, d := range file.Decls {
		name, doc := nameOf(d)
		if name == "" {
			continue
		}
		from := d.Pos()
		if doc != nil {
			from = doc.Pos()
		}
		list = append(list, declaration{name: name, source: source[offset(from):offset(d.End())]})
	}
	return list
}

// nameOf returns the name of a declaration: T.M for a method, the first name for a group.
func nameOf(d ast.Decl) (name string, doc *ast.CommentGroup) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Recv != nil && len(d.Recv.List) > 0 {
			return receiver(d.Recv.List[0].Type) + "." + d.Name.Name, d.Doc
		}
		return d.Name.Name, d.Doc
	case *ast.GenDecl:
		if len(d.Specs) == 0 {
			return "", nil
		}
		switch spec := d.Specs[0].(type) {
		case *ast.TypeSpec:
			return spec.Name.Name, d.Doc
		case *ast.ValueSpec:
			return spec.Names[0].Name, d.Doc
		}
	}
	return "", nil
}

// receiver returns T for T, *T, T[K] and *T[K, V].
func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.ParenExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.IndexListExpr:
		return receiver(e.X)
	}
	return "_"
}
