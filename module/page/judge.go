package page

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/async-relay/caddy-relay/module/api"
)

// level is the condition of a service in one word.
type level string

// The levels, from the best to the worst.
const (
	levelOK     level = "ok"
	levelNotice level = "notice" // an operator has changed something, or a strike is pending
	levelWarn   level = "warn"   // a backend does not work, or clients were refused
	levelBad    level = "bad"    // no backend works
)

var levels = []level{levelOK, levelNotice, levelWarn, levelBad}

// judgement is the condition of a service, with the reasons in words.
type judgement struct {
	level    level
	problems []string // of the levels warn and bad
	notices  []string
}

func (j *judgement) add(l level, format string, args ...any) {
	if slices.Index(levels, l) > slices.Index(levels, j.level) {
		j.level = l
	}
	text := fmt.Sprintf(format, args...)
	if l == levelNotice {
		j.notices = append(j.notices, text)
	} else {
		j.problems = append(j.problems, text)
	}
}

// judge judges a service. refused is the number of clients that it refused lately.
func judge(s *api.Service, refused uint64) judgement {
	j := judgement{level: levelOK}
	for _, network := range networkNames {
		j.judgeNetwork(s, network)
	}
	if refused > 0 {
		j.add(levelWarn, "%s refused in the last minute", clients(refused))
	}
	switch {
	case !s.HeldTill.IsZero():
		j.add(levelNotice, "new clients are held, %d wait", s.Held)
	case s.Held > 0:
		j.add(levelWarn, "%s waiting for a backend", clients(uint64(s.Held)))
	}
	for _, b := range s.Backends {
		if b.Drill != "" {
			j.add(levelNotice, "drill of %s (%s)", b.Address, b.Drill)
		}
		if b.State == api.StateDraining {
			j.add(levelNotice, "%s is drained", b.Address)
		}
	}
	if s.Removed {
		j.add(levelNotice, "removed from the config, its last clients are ending")
	}
	return j
}

// judgeNetwork judges the backends on one network, if the page shows it.
func (j *judgement) judgeNetwork(s *api.Service, network string) {
	var queued, working int
	var down []string
	for _, b := range s.Backends {
		n := b.Networks[network]
		if b.Position == 0 || !shows(network, n, s.Networks) {
			continue
		}
		queued++
		if n.Suspect {
			j.add(levelNotice, "%s is suspected by another node on %s", b.Address, strings.ToUpper(network))
		}
		switch n.State {
		case api.StateUp:
			working++
		case api.StateStruck:
			working++
			j.add(levelNotice, "%s has a strike on %s", b.Address, strings.ToUpper(network))
		case api.StateDown, api.StateCooling:
			down = append(down, b.Address)
		}
	}
	on := ""
	if len(s.Networks) != 1 {
		on = " on " + strings.ToUpper(network)
	}
	switch {
	case queued > 0 && working == 0:
		j.add(levelBad, "no backend works%s", on)
	case len(down) == 1:
		j.add(levelWarn, "%s is down%s", down[0], on)
	case len(down) > 1:
		j.add(levelWarn, "%d of %d backends are down%s", len(down), queued, on)
	}
}

// clients returns a number of clients in words.
func clients(n uint64) string {
	if n == 1 {
		return "1 client"
	}
	return fmt.Sprintf("%d clients", n)
}

// addressHas reports whether the host of a "host:port" is this IP address.
func addressHas(address, ip string) bool {
	at, err := netip.ParseAddrPort(address)
	return err == nil && at.Addr().String() == ip
}
