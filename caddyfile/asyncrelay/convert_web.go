package asyncrelay

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/async-relay/caddy-relay/caddyfile"
)

// pageGrace is the global option of a Caddyfile with a site for the page.
var pageGrace = caddyfile.Directive{Name: "grace_period", Args: []string{webGrace}, Above: []string{"how long an open page may delay the exit"}}

// site returns the site of the page. See [Adapter.emitWeb] for the same in JSON.
func (a *Adapter) site(web *webUI) (caddyfile.Directive, error) {
	hosts := []string{""} // any
	if web.auth == nil {
		hosts = localNames(web.listen)
	}
	names := make([]string, len(hosts))
	for i, host := range hosts {
		names[i] = "http://" + net.JoinHostPort(host, strconv.Itoa(int(web.listen.port)))
	}
	site := caddyfile.Directive{
		Name:  strings.Join(names, ", "),
		Gap:   true,
		Block: []caddyfile.Directive{{Name: "bind", Args: []string{web.listen.host}}},
	}
	if web.auth != nil {
		hash, err := a.hashWebPassword(web.auth)
		if err != nil {
			return site, err
		}
		user, err := caddyfile.Token(braceEscaper.Replace(web.auth.username))
		if err != nil {
			return site, fmt.Errorf("web_ui.auth.username: %w", err)
		}
		account := caddyfile.Directive{Name: user, Args: []string{hash}}
		site.Block = append(site.Block, caddyfile.Directive{Name: "basic_auth", Block: []caddyfile.Directive{account}})
	}
	site.Block = append(site.Block, caddyfile.Directive{Name: "relay_page"})
	return site, nil
}

// innerComments returns the comments of all nodes in a node.
func innerComments(n *yaml.Node) (lines []string) {
	for _, inner := range n.Content {
		lines = slices.Concat(lines, commentsOf(inner).all(), innerComments(inner))
	}
	return lines
}
