// Command screenshots makes the screenshots of docs/page.md, with a real Caddy, real
// backends and traffic. Its argument is the directory:
//
//	go run -C tools/browser ./screenshots ../../docs
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/async-relay/caddy-relay/tools/browser/lab"
)

// trafficFor is how long clients come before the screenshots, so that the charts
// have something to show.
const trafficFor = 65 * time.Second

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: screenshots DIRECTORY")
	}
	if err := run(context.Background(), os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, dir string) error {
	work, err := os.MkdirTemp("", "relay-screenshots")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	program, err := lab.Build(ctx, work)
	if err != nil {
		return err
	}
	var backends []*lab.Backend
	for range 4 {
		b, err := lab.NewBackend()
		if err != nil {
			return err
		}
		defer b.Kill()
		backends = append(backends, b)
	}
	orders, web, page := lab.FreeAddr(), lab.FreeAddr(), lab.FreeAddr()
	_, port, _ := net.SplitHostPort(backends[2].Addr)
	services := fmt.Sprintf("layer4 {\n relay+tcp/%s {\n route {\n relay %s %s localhost:%s {\n name orders\n health_check 5s\n }\n }\n }\n relay+tcp/%s {\n route {\n relay %s %s {\n name web\n }\n }\n }\n}",
		orders, backends[0].Addr, backends[1].Addr, port, web, backends[3].Addr, backends[2].Addr)
	caddy, err := lab.Start(program, work, lab.FreeAddr(), services, fmt.Sprintf("http://%s {\n relay_page\n}", page))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, caddy.Stop()) }()

	traffic, cancel := context.WithCancel(ctx)
	defer cancel()
	for range 4 {
		go clients(traffic, orders)
		go clients(traffic, web)
	}
	time.Sleep(trafficFor - 20*time.Second)
	backends[0].Kill()
	time.Sleep(20 * time.Second)
	if _, err := caddy.Post("/relay/services/web/backends/"+backends[2].Addr+"/drain", "", nil); err != nil {
		return err
	}

	browser, end, err := lab.Chrome(ctx)
	if err != nil {
		return err
	}
	defer end()
	for name, view := range map[string]lab.View{
		"page.png":      {Width: 1280, Height: 860},
		"page-dark.png": {Width: 1280, Height: 860, Dark: true},
	} {
		tab, err := lab.Open(browser, "http://"+page+"/", view)
		if err != nil {
			return err
		}
		if _, err := tab.Wait("window.relayPage?.ready && document.querySelector('.state-draining')", 10*time.Second); err != nil {
			return err
		}
		if err := tab.Shot(filepath.Join(dir, name), false); err != nil {
			return err
		}
		tab.Close()
	}
	return nil
}

// clients connects one client after the other, until ctx ends.
func clients(ctx context.Context, addr string) {
	for ctx.Err() == nil {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			continue
		}
		_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
		payload := make([]byte, 200+rand.IntN(20_000))
		for range 5 + rand.IntN(40) {
			if _, err := conn.Write(payload); err != nil {
				break
			}
			if _, err := conn.Read(payload); err != nil {
				break
			}
			time.Sleep(30 * time.Millisecond) // the pace of the client
		}
		_ = conn.Close()
	}
}
