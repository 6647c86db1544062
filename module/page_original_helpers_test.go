package module_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/module"
)

// pageFile is a YAML file with a page, and the Caddy that runs it.
type pageFile struct {
	*server
	file string
	at   string // the address of its first service
	page string // the address of the page
}

// jsonObject is an object of async-relay's API.
type jsonObject = map[string]any

// startPage runs a YAML file with a TCP service of these backends. web has more keys
// of web_ui.
func startPage(t *testing.T, web string, backends ...string) *pageFile {
	t.Helper()
	p := &pageFile{server: newServer(t), file: filepath.Join(t.TempDir(), "config.yaml"), at: freeAddr(t), page: freeAddr(t)}
	relaytest.Check(t, module.FinishFile(p.file, p.finish))
	p.write(p.yaml(web, backends...))
	relaytest.Check(t, p.load())
	t.Cleanup(func() { relaytest.Check(t, p.stop()) })
	return p
}

// finish gives the configs of the file the admin API and the log of tests.
func (p *pageFile) finish(config []byte) ([]byte, error) {
	other, err := p.adapt("")
	if err != nil {
		return nil, err
	}
	whole := make(map[string]json.RawMessage)
	if err := json.Unmarshal(other, &whole); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(config, &whole); err != nil { // replaces the apps
		return nil, err
	}
	return json.Marshal(whole)
}

func splitAddr(addr string) (host, port string) {
	host, port, _ = net.SplitHostPort(addr)
	return host, port
}

func (p *pageFile) yaml(web string, backends ...string) string {
	host, port := splitAddr(p.at)
	_, pagePort := splitAddr(p.page)
	return fmt.Sprintf("services:\n  - name: %s\n    protocol: tcp\n    listen: {address: %s, port: %s}\n    backends: [\"%s\"]\n"+
		"    event_hook: {command: /bin/true, args: [s3cret], events: [backend_failed]}\nweb_ui: {enabled: true, port: %s%s}\n",
		unique("page"), host, port, strings.Join(backends, `", "`), pagePort, web)
}

func (p *pageFile) write(text string) {
	p.t.Helper()
	relaytest.Check(p.t, os.WriteFile(p.file, []byte(text), 0o644))
}

// load loads the file as `caddy async-relay` does when it has changed.
func (p *pageFile) load() error {
	content, err := os.ReadFile(p.file)
	if err != nil {
		return err
	}
	return module.LoadFile(p.file, content)
}

// runtime returns the runtime file; "" if there is none.
func (p *pageFile) runtime() string {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(filepath.Dir(p.file), "config.runtime.yaml"))
	if err != nil && !os.IsNotExist(err) {
		p.t.Fatal(err)
	}
	return string(text)
}

// answer is the answer to a request to the page.
type answer struct {
	status int
	header http.Header
	text   []byte
}

func (a answer) object(t *testing.T) (object jsonObject) {
	t.Helper()
	if err := json.Unmarshal(a.text, &object); err != nil {
		t.Fatalf("status %d: %v in %s", a.status, err, a.text)
	}
	return object
}

// do makes a request to a page. Headers are name and value by turns. Each reload
// replaces the listener of the page and drops the connections in its queue. Such a
// request was not handled, so it is repeated.
func do(t *testing.T, page, method, path, body string, headers ...string) answer {
	t.Helper()
	// Requests with a password hash it, some more than once. With the race detector each
	// hash takes many seconds.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 6 * relaytest.Limit}
	var response *http.Response
	var err error
	for range 20 {
		request, bad := http.NewRequest(method, "http://"+page+path, strings.NewReader(body))
		relaytest.Check(t, bad)
		for pair := range slices.Chunk(headers, 2) {
			request.Header.Set(pair[0], pair[1])
			if pair[0] == "Host" {
				request.Host = pair[1]
			}
		}
		if response, err = client.Do(request); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	relaytest.Check(t, err)
	return answer{response.StatusCode, response.Header, text}
}

func (p *pageFile) do(method, path, body string, headers ...string) answer {
	p.t.Helper()
	return do(p.t, p.page, method, path, body, headers...)
}

// config returns the config that the API shows, and the source.
func (p *pageFile) config() (config jsonObject, source string) {
	p.t.Helper()
	got := p.do("GET", "/api/config", "").object(p.t)
	return got["config"].(jsonObject), got["source"].(string)
}

// put edits the config as async-relay's page does.
func (p *pageFile) put(config jsonObject, headers ...string) answer {
	p.t.Helper()
	body, err := json.Marshal(config)
	relaytest.Check(p.t, err)
	return p.do("PUT", "/api/config", string(body), append(headers, "Content-Type", "application/json")...)
}

func firstService(config jsonObject) jsonObject {
	return config["services"].([]any)[0].(jsonObject)
}

// want checks the status of an answer.
func (a answer) want(t *testing.T, status int, parts ...string) {
	t.Helper()
	if a.status != status {
		t.Errorf("status %d, want %d: %s", a.status, status, a.text)
	}
	for _, part := range parts {
		if !bytes.Contains(a.text, []byte(part)) {
			t.Errorf("no %q in %s", part, a.text)
		}
	}
}

// running returns Caddy's running config.
func (p *pageFile) running() string {
	p.t.Helper()
	response, err := http.Get("http://" + p.admin + "/config/")
	relaytest.Check(p.t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	relaytest.Check(p.t, err)
	http.DefaultClient.CloseIdleConnections()
	return string(text)
}
