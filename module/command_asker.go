package module

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

// asker asks the admin API for a command and prints the answer.
type asker struct {
	address string
	json    bool // print it as it is
	out     io.Writer
}

func newAsker(cmd *cobra.Command) (asker, error) {
	flags := cmd.Flags()
	given, err := flags.GetString("address")
	if err != nil {
		return asker{}, err
	}
	asJSON, err := flags.GetBool("json")
	if err != nil {
		return asker{}, err
	}
	address, err := caddycmd.DetermineAdminAPIAddress(given, nil, "", "")
	return asker{address, asJSON, cmd.OutOrStdout()}, err
}

// show makes a request, and prints its answer: in words once it has been
// decoded, or as it is.
func (a asker) show(method, path string, answer any, inWords func(*printer)) error {
	response, err := caddycmd.AdminAPIRequest(a.address, method, path, nil, nil)
	if err != nil {
		return fmt.Errorf("ask the admin API at %s: %w", a.address, whatItSaid(err))
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("read the answer of the admin API at %s: %w", a.address, err)
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("read the answer of the admin API at %s: %w", a.address, err)
	}
	if a.json {
		var indented bytes.Buffer
		_ = json.Indent(&indented, text, "", "  ") // it is valid, or would not have been decoded
		_, err = indented.WriteTo(a.out)
		return err
	}
	p := newPrinter(a.out)
	inWords(p)
	return p.flush()
}

// whatItSaid is the API's own text out of the error that Caddy makes of an
// answer; any other error stays as it is.
func whatItSaid(err error) error {
	var said caddy.APIError
	text := err.Error()
	if i := strings.IndexByte(text, '{'); i >= 0 && json.Unmarshal([]byte(text[i:]), &said) == nil && said.Message != "" {
		return errors.New(said.Message)
	}
	return err
}

// segment is a name as one segment of a path. A path is cleaned of dots on
// its way, and a name may be nothing else.
func segment(name string) string {
	if name == "." || name == ".." {
		return strings.ReplaceAll(name, ".", "%2E")
	}
	return url.PathEscape(name)
}

func query(text string) string { return url.QueryEscape(text) }

// backendPath is that of an action on the service and backend of the arguments.
func backendPath(args []string, action string) string {
	return "/relay/services/" + segment(args[0]) + "/backends/" + segment(args[1]) + "/" + action
}
