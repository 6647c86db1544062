// Package lab runs a Caddy with the relay, backends that can be killed, and a
// chromium that looks at the live page. The browser tests and the command
// screenshots use it.
//
// It is in a module of its own, so that the driver of the browser is no dependency of
// the relay. It knows the relay only by its program.
package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"time"
)

// Build builds the relay's Caddy of this checkout and returns its path in dir.
func Build(ctx context.Context, dir string) (string, error) {
	root, err := exec.CommandContext(ctx, "git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		return "", fmt.Errorf("find the checkout: %w", err)
	}
	program := filepath.Join(dir, "caddy")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "./cmd/caddy")
	build.Dir = string(bytes.TrimSpace(root))
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build caddy: %w: %s", err, out)
	}
	return program, nil
}

// Caddy is a running Caddy.
type Caddy struct {
	Admin string // address of its admin API

	command *exec.Cmd
	log     bytes.Buffer  // may be read after ended
	ended   chan struct{} // closed when the process has ended
}

// Start starts a Caddy with a Caddyfile, whose global options come from this
// function, and waits until its admin API answers. dir is for its state.
func Start(program, dir, admin, options, sites string) (*Caddy, error) {
	c := &Caddy{Admin: admin}
	c.command = exec.Command(program, "run", "--config", "-", "--adapter", "caddyfile")
	c.command.Stdin = bytes.NewReader(c.caddyfile(options, sites))
	c.command.Env = append(os.Environ(), "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir)
	c.command.Stdout, c.command.Stderr = &c.log, &c.log
	if err := c.command.Start(); err != nil {
		return nil, err
	}
	c.ended = make(chan struct{})
	go func() { // ends with the process
		_ = c.command.Wait()
		close(c.ended)
	}()
	for range 600 {
		select {
		case <-c.ended:
			return nil, fmt.Errorf("caddy has ended; its log:\n%s", c.log.Bytes())
		default:
		}
		if response, err := http.Get("http://" + admin + "/config/apps"); err == nil { // waits until the config has started
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return c, nil
			}
		}
		time.Sleep(50 * time.Millisecond) // between attempts to connect
	}
	return nil, errors.Join(errors.New("caddy does not answer"), c.Stop())
}

func (c *Caddy) caddyfile(options, sites string) []byte {
	return fmt.Appendf(nil, "{\n\tadmin %s\n\tauto_https off\n%s\n}\n%s\n", c.Admin, options, sites)
}

// Reload loads another Caddyfile.
func (c *Caddy) Reload(options, sites string) error {
	_, err := c.Post("/load", "text/caddyfile", c.caddyfile(options, sites))
	return err
}

// Post sends a request to the admin API.
func (c *Caddy) Post(path, contentType string, body []byte) ([]byte, error) {
	response, err := http.Post("http://"+c.Admin+path, contentType, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("POST %s: %s: %s", path, response.Status, answer)
	}
	return answer, err
}

// Stop ends Caddy in its orderly way. The error has Caddy's log if Caddy does not
// end in time.
func (c *Caddy) Stop() error {
	_ = c.command.Process.Signal(os.Interrupt)
	select {
	case <-c.ended:
		return nil
	case <-time.After(15 * time.Second):
		_ = c.command.Process.Kill()
		<-c.ended
		return fmt.Errorf("caddy did not end in 15s; its log:\n%s", c.log.Bytes())
	}
}

// The ports of [FreeAddr] are below the ephemeral ports, so that no outgoing connection
// takes one before a server listens on it, or while a backend is dead. Browsers open all
// of them.
const (
	firstPort = 7000
	endPort   = 9000
)

// nextPort begins somewhere, because other processes take ports of the range, too.
var nextPort = func() *atomic.Int64 {
	next := new(atomic.Int64)
	next.Store(rand.Int64N(endPort - firstPort))
	return next
}()

// FreeAddr returns an address of 127.0.0.1 that is free. It returns each port of the
// range before it returns one again.
func FreeAddr() string {
	for range endPort - firstPort {
		addr := fmt.Sprintf("127.0.0.1:%d", firstPort+nextPort.Add(1)%(endPort-firstPort))
		if ln, err := net.Listen("tcp", addr); err == nil {
			_ = ln.Close()
			return addr
		}
	}
	panic("no free port")
}
