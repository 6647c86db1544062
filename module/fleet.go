package module

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/async-relay/caddy-relay/internal/fleet"
	"github.com/async-relay/caddy-relay/upstream"
)

// membership is the membership of this process in a fleet: option share. It outlives
// reloads.
var membership struct {
	member atomic.Pointer[fleet.Member] // nil: the running config has no share; replaced under turn.mu
	name   string                       // of its fleet and node; guarded by turn.mu
}

// notInNames are the characters that names of nodes do not have.
var notInNames = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)

// nodeID returns the name of this process in its fleet. Its last part makes each
// membership unique: the numbers of a record begin anew with each.
func (a *App) nodeID() string {
	name := a.Instance
	if name == "" {
		host, _ := os.Hostname()
		host = strings.Trim(notInNames.ReplaceAllString(host, "-"), "-.")
		name = cmp.Or(host[:min(len(host), 64)], "node")
	}
	return name + "-" + strings.ToLower(rand.Text()[:8])
}

// joinFleet makes this process a member of the fleet of this config, and ends an
// earlier membership. The caller holds turn.mu.
func (a *App) joinFleet() {
	m := &membership
	name := a.Share + " " + a.Instance
	member := m.member.Load()
	if member != nil && (a.Share == "" || name != m.name || member.Stalled()) {
		leaveFleet()
		member = nil
	}
	switch {
	case a.Share == "":
	case member != nil:
		member.SetStorage(a.ctx.Storage(), a.log())
	default:
		m.name = name
		m.member.Store(fleet.Join(fleet.Options{
			Fleet: a.Share, ID: a.nodeID(), Storage: a.ctx.Storage(), Log: a.log(),
			Observe: observeServices, Act: new(fleetActor).act,
		}))
	}
}

// leaveFleet ends the membership, if there is one. The caller holds turn.mu.
func leaveFleet() {
	if member := membership.member.Swap(nil); member != nil {
		member.Leave()
		withdrawSuspicions()
	}
}

// withdrawSuspicions ends all suspicions: there are no other nodes any more.
func withdrawSuspicions() {
	services.Range(func(_, value any) bool {
		s := value.(*service)
		for _, b := range s.Pool.Snapshot(time.Now()) {
			for n := range b.Networks {
				s.Pool.Unsuspect(b.Backend, upstream.Network(n))
			}
		}
		return true
	})
}

// fleetChanged makes the fleet see a change of the services of this process.
func fleetChanged() {
	if member := membership.member.Load(); member != nil {
		member.Changed()
	}
}

// shared carries out an operation of an operator, and shares it with the fleet if do
// returns true.
func shared(o fleet.Operation, do func() bool) {
	if member := membership.member.Load(); member != nil {
		member.Do(o, do)
		return
	}
	do()
}

// shareKey returns the identity of a service in a fleet. The settings that identify an
// unnamed relay may contain secrets, and are long.
func (s *service) shareKey() string {
	if name, ok := strings.CutPrefix(s.key, "name "); ok && len(name) <= 256 {
		return name
	}
	sum := sha256.Sum256([]byte(s.key))
	return "unnamed " + hex.EncodeToString(sum[:16])
}

// observeServices returns what this process has and sees, for its fleet.
func observeServices() (list []fleet.Service) {
	now := time.Now()
	for _, s := range runningServices() {
		o := fleet.Service{Key: s.shareKey()}
		for _, b := range s.Pool.Snapshot(now) {
			o.Backends = append(o.Backends, b.Backend.Text)
			for n, status := range b.Networks {
				if !status.DownSince.IsZero() {
					target := fleet.Target{Service: o.Key, Backend: b.Backend.Text, Network: upstream.Network(n).String()}
					o.Down = append(o.Down, fleet.Claim{Target: target, Demotions: status.Demotions})
				}
			}
		}
		list = append(list, o)
	}
	return list
}

// sharedService returns the service with an identity in the fleet, or nil.
func sharedService(key string) *service {
	for _, s := range runningServices() {
		if s.shareKey() == key {
			return s
		}
	}
	return nil
}

// operatorOn returns the operator of an operation of another node, for the journal.
func operatorOn(o fleet.Operation) string {
	if o.By == "" {
		return "node " + o.Node
	}
	return fmt.Sprintf("%s on node %s", o.By, o.Node)
}
