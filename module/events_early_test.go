package module

import (
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/async-relay/caddy-relay/handler"
)

// Events from before the first settings are passed on in order, also if another
// one comes while they are.
func TestEarlyEventsKeepTheirOrder(t *testing.T) {
	var early earlyEvents
	var mu sync.Mutex
	var order []int
	add := func(e handler.Event) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, e.Failures)
	}
	for n := range 3 {
		if !early.keep(handler.Event{Failures: n}) {
			t.Fatal("an early event is not kept")
		}
	}
	var later sync.WaitGroup
	early.take(func(e handler.Event) {
		if e.Failures == 0 {
			later.Go(func() {
				if e := (handler.Event{Failures: 3}); !early.keep(e) {
					add(e)
				}
			})
			for range 1000 { // time for it to overtake
				runtime.Gosched()
			}
		}
		add(e)
	})
	later.Wait()
	if got := fmt.Sprint(order); got != "[0 1 2 3]" {
		t.Errorf("passed on in the order %s", got)
	}
}
