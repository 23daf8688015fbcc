package warmtierhttp_test

import (
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/warmtierhttp"
)

// The handler is mounted in a server of yours, with timeouts.
func ExampleNew() {
	store, err := warmtier.Open("", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer store.Close()
	steering := warmtierhttp.New(store, warmtierhttp.Options{Token: os.Getenv("WARMTIER_TOKEN")})
	defer steering.Close()
	mux := http.NewServeMux()
	mux.Handle("/warmtier/", http.StripPrefix("/warmtier", steering))
	server := &http.Server{
		Addr:              "127.0.0.1:8089",
		Handler:           mux,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
	server.RegisterOnShutdown(func() { _ = steering.Close() }) // ends event streams and compactions
	if os.Getenv("SERVE") == "" {
		return
	}
	fmt.Println(server.ListenAndServe())
}
