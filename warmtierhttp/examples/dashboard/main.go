// Dashboard shows a warmtier store over files of yours: it stores every file below a directory as a
// memory, works on them, and serves the page on this machine.
//
//	go run ./examples/dashboard ~/src
//
// The work is a reader, and a writer that rewrites and deletes memories so that there is something to
// compact. With -idle there is none. Nothing is written to the directory.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"time"

	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/warmtierhttp"
)

// maxFile is the size of files that are left out: memories are many and small. Bytes.
const maxFile = 1 << 20

func main() {
	addr := flag.String("addr", "127.0.0.1:8089", "serve the page on `address`")
	idle := flag.Bool("idle", false, "only load, do no work on the memories")
	token := flag.String("token", os.Getenv("WARMTIER_TOKEN"), "`token` that the buttons of the page need")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: dashboard [-addr ADDRESS] [-idle] [-token TOKEN] DIRECTORY")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, flag.Arg(0), *addr, *token, *idle, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "dashboard:", err)
		os.Exit(1)
	}
}

// run is the whole program, until ctx is done.
func run(ctx context.Context, dir, addr, token string, idle bool, out, logs io.Writer) (err error) {
	logger := slog.New(slog.NewTextHandler(logs, nil))
	store, err := warmtier.Open("", &warmtier.Options{
		SegmentSize: 1 << 20, // small, so that the map has many segments
		Logger:      logger,
		Maintenance: warmtier.MaintenanceOptions{ // so that compactions can be watched
			Interval: 10 * time.Second, MinBytes: 1 << 20, MinPeriod: 30 * time.Second,
		},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	ids, err := load(ctx, store, dir)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d files are memories. The page is at http://%s/, control-C ends it.\n",
		len(ids), listener.Addr())

	var work sync.WaitGroup
	defer work.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !idle && len(ids) > 0 {
		work.Go(func() { read(ctx, store, ids) })
		work.Go(func() { write(ctx, store, ids) })
	}
	return serve(ctx, listener, warmtierhttp.New(store, warmtierhttp.Options{Token: token, Logger: logger}))
}

// serve serves page until ctx is done, with the timeouts that the README of warmtierhttp gives.
func serve(ctx context.Context, listener net.Listener, page *warmtierhttp.Handler) error {
	server := &http.Server{
		Handler:           page,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return errors.Join(err, page.Close())
	case <-ctx.Done():
	}
	closed := page.Close() // first: it ends the streams that Shutdown would wait for
	last, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(closed, server.Shutdown(last))
}

// load stores every regular file below dir, up to maxFile bytes, under its path in dir.
func load(ctx context.Context, store *warmtier.Store, dir string) (ids []string, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	err = fs.WalkDir(root.FS(), ".", func(path string, entry fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			if path == "." {
				return err
			}
			return nil // not ours to read, or gone
		}
		if info, err := entry.Info(); err != nil || !entry.Type().IsRegular() || info.Size() > maxFile {
			return nil //nolint:nilerr // removed in between
		}
		content, err := root.ReadFile(filepath.FromSlash(path))
		if err != nil {
			return nil //nolint:nilerr // not ours to read, or gone
		}
		if err := store.Put(path, content); err != nil {
			return err
		}
		ids = append(ids, path)
		return nil
	})
	return ids, err
}

// read reads memories in batches, some more than others, until ctx is done.
func read(ctx context.Context, store *warmtier.Store, ids []string) {
	popular := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), 1.1, 10, uint64(len(ids)-1))
	var content []byte
	each(ctx, 5*time.Millisecond, func() {
		for range 200 {
			content, _ = store.AppendContent(content[:0], ids[popular.Uint64()]) // some are deleted
		}
	})
}

// write deletes memories and stores others again, in a newer version, until ctx is done.
func write(ctx context.Context, store *warmtier.Store, ids []string) {
	each(ctx, 10*time.Millisecond, func() {
		id, from := ids[rand.IntN(len(ids))], ids[rand.IntN(len(ids))]
		if rand.IntN(8) == 0 {
			_, _ = store.Delete(id) // fails when the store does; the page shows that
			return
		}
		content, err := store.Get(from)
		if err == nil {
			_ = store.Put(id, content)
		}
	})
}

// each calls f at intervals until ctx is done.
func each(ctx context.Context, interval time.Duration, f func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			f()
		case <-ctx.Done():
			return
		}
	}
}
