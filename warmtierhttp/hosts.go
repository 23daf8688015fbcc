package warmtierhttp

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// hosts are the names and addresses by which clients may address the handler, beside localhost and loopback
// addresses. They are immutable once the handler serves.
type hosts struct {
	names    map[string]bool // in lower case
	below    []string        // ".example.org" for "*.example.org"
	prefixes []netip.Prefix
}

// add adds a pattern: a name, an address, "*." and a name for every name below it, or a range of addresses as
// in 10.0.0.0/8.
func (h *hosts) add(pattern string) error {
	host := normalHost(pattern)
	if strings.Contains(host, "/") {
		prefix, err := netip.ParsePrefix(host)
		if err != nil {
			return fmt.Errorf("warmtierhttp: allowed host %q: %w", pattern, err)
		}
		h.prefixes = append(h.prefixes, prefix.Masked())
		return nil
	}
	name, wild := strings.CutPrefix(host, "*.")
	_, notAddress := netip.ParseAddr(name)
	if name == "" || strings.ContainsAny(name, "* []@?#") || notAddress != nil && strings.Contains(name, ":") {
		return fmt.Errorf("warmtierhttp: allowed host %q: want a name or an address without a port, *.NAME, or a "+
			"range as in 10.0.0.0/8", pattern)
	}
	if wild {
		h.below = append(h.below, "."+name)
		return nil
	}
	h.names[name] = true
	return nil
}

// allow reports whether a Host header names this machine or matches a pattern.
func (h *hosts) allow(header string) bool {
	host := normalHost(header)
	if name, _, err := net.SplitHostPort(header); err == nil {
		host = normalHost(name)
	}
	if host == "localhost" || h.names[host] {
		return true
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		addr = addr.Unmap()
		if addr.IsLoopback() {
			return true
		}
		for _, prefix := range h.prefixes {
			if prefix.Contains(addr) {
				return true
			}
		}
		return false
	}
	for _, below := range h.below {
		if len(host) > len(below) && strings.HasSuffix(host, below) {
			return true
		}
	}
	return false
}

// normalHost returns host in lower case, without a dot at its end and without brackets.
func normalHost(host string) string {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	return strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
}
