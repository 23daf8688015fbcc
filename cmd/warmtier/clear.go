package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/warmtier/warmtier"
)

type clearCmd struct {
	whereFlag
	Yes bool `short:"y" help:"Do not ask."`
}

func (clearCmd) Help() string {
	return `Examples:
  warmtier clear -d data
  WARMTIER_TOKEN=secret warmtier clear --url http://127.0.0.1:7077 --yes
Asks before, where somebody types; elsewhere --yes is needed. All goes at once: interrupted, it leaves everything
or nothing. A server keeps serving, and is cleared only if it has a token.`
}

// cleared is the answer to a clear.
type cleared struct {
	Memories int `json:"memories"`
}

func (c *clearCmd) Run(a *app) error {
	var body json.RawMessage
	var err error
	if c.URL != "" {
		body, err = c.clearServer(a)
	} else {
		err = a.with(c.Dir, changing, unattended(warmtier.Options{}), func(s *warmtier.Store) error {
			there := cleared{s.Len()}
			if err := c.confirm(a, there.Memories, c.Dir); err != nil {
				return err
			}
			if err := s.Clear(); err != nil {
				return err
			}
			body, err = json.Marshal(there)
			return err
		})
	}
	var st cleared
	if err == nil {
		err = json.Unmarshal(body, &st)
	}
	if err != nil {
		return err
	}
	return a.result(body, [][]string{{"memories deleted", showCount(st.Memories)}})
}

func (c *clearCmd) clearServer(a *app) (json.RawMessage, error) {
	n, err := c.client().count(a.ctx)
	if err == nil {
		err = c.confirm(a, n, c.URL)
	}
	if err != nil {
		return nil, err
	}
	return c.client().do(a.ctx, http.MethodPost, clearPath)
}

// confirm returns an error unless somebody says that n memories may go.
func (c *clearCmd) confirm(a *app, n int, where string) error {
	if c.Yes {
		return nil
	}
	if !isTerminal(a.in) {
		return usage("this deletes all memories: say so with --yes")
	}
	fmt.Fprintf(a.errOut, "Delete %s of %s? [y/N] ", counted(n, "memory"), where)
	answer, _ := bufio.NewReader(untilDone(a.ctx, a.in)).ReadString('\n') // what was not typed is no yes
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	if a.ctx.Err() != nil {
		return a.ctx.Err()
	}
	return finding("nothing was deleted")
}
