package module_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/async-relay/caddy-relay/internal/relaytest"
	"github.com/async-relay/caddy-relay/module"
)

// A client that is on its way from the listener to the relay during a reload goes
// to the relay of the new config, with whatever name.
func TestReloadWhileClientIsHandedOver(t *testing.T) {
	for _, network := range []string{ours.tcp, ours.udp} {
		for _, next := range []string{"same", "other"} {
			t.Run(network+" "+next, func(t *testing.T) {
				old, _ := echoTCP(t, "old")
				echoUDP(t, "old", old)
				backend, _ := echoTCP(t, "new")
				echoUDP(t, "new", backend)
				at := freeAddr(t)
				s := start(t, bothAt(at, old+" {\n name same"+serviceAt(at)+"\n }"))
				arrived, proceed := make(chan struct{}), make(chan struct{})
				end, err := module.DelayClients(network, at, func() { arrived <- struct{}{}; <-proceed })
				relaytest.Check(t, err)
				client := dial(t, network[len("relay+"):], at)
				_, err = client.Write([]byte("x"))
				relaytest.Check(t, err)
				relaytest.Receive(t, "the client", arrived)
				s.mustReload(bothAt(at, backend+" {\n name "+next+serviceAt(at)+"\n }"))
				end()
				close(proceed)
				buf := make([]byte, 100)
				if n, err := client.Read(buf); err != nil || string(buf[:n]) != "new x" {
					t.Errorf("got %q, %v", buf[:n], err)
				}
				if n := active(next + serviceAt(at)); n != 1 {
					t.Errorf("%d clients of the service", n)
				}
			})
		}
	}
}

// A client that matchers wait for during a reload is served afterwards. It counts
// as a client of its service, whether or not the new config has that.
func TestReloadWhileMatching(t *testing.T) {
	backend, _ := echoTCP(t, "b")
	echoUDP(t, "b", backend)
	for _, network := range []string{ours.tcp, ours.udp, caddys.tcp} {
		for _, next := range []string{"same", "other"} {
			t.Run(network+" "+next, func(t *testing.T) {
				at := freeAddr(t)
				first, second := serviceAt(at), next+serviceAt(at)
				if next == "same" {
					second = first
				}
				config := func(name string) string {
					return fmt.Sprintf("%s/%s {\n matching_timeout 1m\n @go regexp go 2\n route @go {\n relay %s {\n name %s\n }\n }\n }\n", network, at, backend, name)
				}
				s := start(t, config(first))
				transport := "tcp"
				if network == ours.udp {
					transport = "udp"
				}
				before := matching()
				client := dial(t, transport, at)
				_, err := client.Write([]byte("g"))
				relaytest.Check(t, err)
				relaytest.Eventually(t, "the matcher to wait for the client", func() bool { return matching() > before })
				for range 2 { // the name may come back while the client is waited for
					s.mustReload(config(second))
				}
				for _, text := range []string{"o", "more"} {
					_, err = client.Write([]byte(text))
					relaytest.Check(t, err)
					buf := make([]byte, 100)
					if n, err := client.Read(buf); err != nil || n < 3 {
						t.Fatalf("got %q, %v", buf[:n], err)
					}
				}
				service := module.ServiceOf(first)
				if service == nil {
					t.Fatal("the service is not in the process's table")
				}
				if tcp, udp := service.Active(); tcp+udp != 1 {
					t.Errorf("%d clients of the service", tcp+udp)
				}
				relaytest.Check(t, client.Close())
				if next == "other" && transport == "tcp" {
					relaytest.Eventually(t, "the end of the service", func() bool { return module.ServiceOf(first) == nil })
				}
			})
		}
	}
}

// matching returns the number of clients whose first bytes layer4 waits for.
func matching() (n int) {
	for _, stack := range relaytest.GoroutineStacks() {
		if strings.Contains(stack, "layer4.(*Connection).prefetch(") {
			n++
		}
	}
	return n
}

// Under load, reloads that change a service's name and back lose no client.
func TestReloadsUnderLoadWithDelays(t *testing.T) {
	backend, _ := echoTCP(t, "b")
	echoUDP(t, "b", backend)
	at := freeAddr(t)
	names := []string{unique("number"), unique("number")}
	config := func(i int) string { return bothAt(at, fmt.Sprintf("%s {\n name %s\n }", backend, names[i%2])) }
	s := start(t, config(0))
	f := newTraffic()
	f.connect(4, at, 0)
	f.talk(4, at)
	for i := 0; i < 20 || f.connects.Load() < 500; i++ {
		var ends []func()
		for _, network := range []string{ours.tcp, ours.udp} {
			end, err := module.DelayClients(network, at, func() { time.Sleep(time.Millisecond) })
			relaytest.Check(t, err)
			ends = append(ends, end)
		}
		s.mustReload(config(i + 1))
		for _, end := range ends {
			end()
		}
	}
	f.end()
	if refused, broken, lost := f.refused.Load(), f.broken.Load(), f.lost.Load(); refused+broken+lost > 0 {
		messages := make(map[any]int)
		for _, line := range logged(t, s.log) {
			messages[line["msg"]]++
		}
		t.Errorf("of %d connections %d were refused and %d broken; of %d datagrams %d were lost: %v; logged: %v",
			f.connects.Load(), refused, broken, f.asked.Load(), lost, f.errs, messages)
	}
}
