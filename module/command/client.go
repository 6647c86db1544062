package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/async-relay/caddy-relay/module/api"
)

// client makes requests to the admin API and prints the responses.
type client struct {
	address string
	query   url.Values // of flags, for the request
	json    bool       // print responses as JSON
	out     io.Writer
}

func newClient(cmd *cobra.Command) (client, error) {
	flags := cmd.Flags()
	given, err := flags.GetString("address")
	if err != nil {
		return client{}, err
	}
	asJSON, err := flags.GetBool("json")
	if err != nil {
		return client{}, err
	}
	address, err := adminAddress(given)
	return client{address, make(url.Values), asJSON, cmd.OutOrStdout()}, err
}

// show makes a request, decodes the response and prints it: as JSON if the user
// asked for that, or with inWords.
func (c client) show(method, path string, response any, inWords func(*printer)) error {
	if len(c.query) > 0 {
		path += "?" + c.query.Encode()
	}
	text, err := c.request(method, path, nil, response)
	if err != nil {
		return err
	}
	if c.json {
		var indented bytes.Buffer
		_ = json.Indent(&indented, text, "", "  ") // cannot fail: the text was decoded above
		_, err = indented.WriteTo(c.out)
		return err
	}
	p := newPrinter(c.out)
	inWords(p)
	return p.flush()
}

// request makes a request with a JSON body, which may be nil. It decodes the response
// and returns its text.
func (c client) request(method, path string, body []byte, response any) (text []byte, err error) {
	var headers http.Header
	if body != nil {
		headers = http.Header{"Content-Type": {"application/json"}}
	}
	r, err := caddycmd.AdminAPIRequest(c.address, method, path, headers, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("request to the admin API at %s: %w%s", c.address, apiMessage(err), c.advice())
	}
	defer r.Body.Close()
	text, err = io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(text, response)
	}
	if err != nil {
		return nil, fmt.Errorf("response of the admin API at %s: %w", c.address, err)
	}
	return text, nil
}

// apiMessage returns the message of the admin API out of the error that Caddy
// makes of its response. It returns any other error unchanged.
func apiMessage(err error) error {
	text := err.Error()
	i := strings.IndexByte(text, '{')
	if i < 0 {
		return err
	}
	var response struct {
		caddy.APIError
		api.Health
	}
	if json.Unmarshal([]byte(text[i:]), &response) != nil {
		return err
	}
	messages := []string{response.Message}
	if response.Message == "" {
		messages = nil
	}
	for _, reason := range response.Reasons {
		messages = append(messages, reason.Message)
	}
	if len(messages) == 0 {
		return err
	}
	return errors.New(strings.Join(messages, "; "))
}

// pathSegment escapes a name as one segment of a path. It escapes the names "."
// and ".." too, because HTTP clients and servers remove such segments.
func pathSegment(name string) string {
	if name == "." || name == ".." {
		return strings.ReplaceAll(name, ".", "%2E")
	}
	return url.PathEscape(name)
}

func servicePath(service string) string { return "/relay/services/" + pathSegment(service) }

// backendPath returns the path of an action on a backend. args are the names of
// its service and of the backend.
func backendPath(args []string, action string) string {
	return servicePath(args[0]) + "/backends/" + pathSegment(args[1]) + "/" + action
}
