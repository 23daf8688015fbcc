package warmtierresp

import (
	"errors"
	"fmt"
	"net"
	"os"
	"testing"

	"github.com/warmtier/warmtier"
)

// childVariable makes the test program a server of a store in memory, whose address it prints. It ends with its input.
const childVariable = "WARMTIER_RESP_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) == "" {
		os.Exit(m.Run()) //nolint:forbidigo // as every TestMain
	}
	if err := serveChild(); err != nil {
		panic(err)
	}
}

func serveChild() error {
	store, err := warmtier.Open("", nil)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := New(store, Options{})
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	if _, err := fmt.Fprintln(os.Stdout, listener.Addr()); err != nil {
		return err
	}
	_, _ = os.Stdin.Read(make([]byte, 1)) // until the parent goes
	if err := server.Close(); err != nil {
		return err
	}
	if err := <-served; !errors.Is(err, ErrServerClosed) {
		return err
	}
	return store.Close()
}
