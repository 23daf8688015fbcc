package warmtierresp_test

import (
	"bufio"
	"fmt"
	"net"

	"github.com/warmtier/warmtier"
	"github.com/warmtier/warmtier/warmtierresp"
)

// A server of a store in memory, for clients on this machine.
func Example() {
	store, err := warmtier.Open("", nil)
	if err != nil {
		panic(err)
	}
	defer store.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0") // 127.0.0.1:6380, for example
	if err != nil {
		panic(err)
	}
	server := warmtierresp.New(store, warmtierresp.Options{MaxClients: 100})
	go func() { _ = server.Serve(listener) }() // ErrServerClosed, after Close
	defer server.Close()                       // before the store

	client, err := net.Dial("tcp", listener.Addr().String()) // any Redis client would do
	if err != nil {
		panic(err)
	}
	defer client.Close()
	fmt.Fprintf(client, "SET user:42 'likes tea' EX 60\r\nGET user:42\r\n")
	replies := bufio.NewScanner(client)
	for range 3 {
		replies.Scan()
		fmt.Println(replies.Text())
	}
	content, err := store.Get("user:42")
	fmt.Println(string(content), err)
	// Output:
	// +OK
	// $9
	// likes tea
	// likes tea <nil>
}
