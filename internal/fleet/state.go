package fleet

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"
)

// Heartbeats: each node writes its record at least once in a beat.
const (
	minBeat     = 10 * time.Second
	beatPerNode = 100 * time.Millisecond // a fleet of more than 100 nodes has longer beats
	maxBeat     = 10 * time.Minute
	missedBeats = 3 // after which a node has vanished
)

// State is what a node knows of its fleet. It is passive: it neither reads clocks nor
// does anything. Its methods must not be called concurrently.
type State struct {
	id       string
	sequence uint64
	clock    uint64              // of the latest operation that is known
	services map[string]*service // of this node
	down     map[Target]uint64   // on this node, with the number of demotions
	latest   map[key]*operation  // of each kind, service and backend
	peers    map[string]*peer    // all other nodes whose records were read
	scanned  bool                // all records were read once
}

// service is a service of this node.
type service struct {
	backends []string
	joined   bool // the records of others were read since this node has the service
}

// operation is an operation that is known, with its end by the clock of this node.
type operation struct {
	Operation
	ends time.Time // of a hold or drill
}

// peer is another node.
type peer struct {
	sequence uint64
	advanced time.Time // when this node saw that the sequence had advanced
	beat     time.Duration
	vanished bool // the sequence does not advance any more
	old      bool // the record may be one of a node that ended long ago
	down     map[Target]uint64
}

// Service is a service of this node, for [State.Observe].
type Service struct {
	Key      string   // the same on all nodes
	Backends []string // as configured
	Down     []Claim  // the backends that are down
}

// Action is what a node must do because of what it has read.
type Action struct {
	Do        Do
	Node      string    // whose record or operation is the reason
	Target    Target    // of Suspect and Unsuspect
	Operation Operation // of Repeat; Left is the time left now
}

// Do is what an action does.
type Do uint8

// The actions.
const (
	Suspect   Do = iota // the target is down on another node
	Unsuspect           // no other node claims any more that the target is down
	Repeat              // an operation of another node
	Joined              // a node was seen for the first time, or again
	Left                // the record of a node was removed
	Vanished            // a node does not write its record any more
)

// NewState returns the state of a node that knows no other. id must be unique.
func NewState(id string) *State {
	return &State{id: id, down: make(map[Target]uint64), latest: make(map[key]*operation), peers: make(map[string]*peer)}
}

// Observe sets what this node has and sees. It reports whether others need to know
// at once.
func (s *State) Observe(services []Service) (changed bool) {
	before := s.services
	s.services = make(map[string]*service, len(services))
	down := make(map[Target]uint64)
	for _, o := range services {
		known := before[o.Key]
		if known == nil {
			known = new(service)
		}
		s.services[o.Key] = &service{backends: o.Backends, joined: known.joined}
		for _, c := range o.Down {
			down[c.Target] = c.Demotions
		}
	}
	maps.DeleteFunc(s.latest, func(k key, _ *operation) bool { return !s.has(k) })
	changed = !maps.Equal(s.down, down)
	s.down = down
	return changed
}

// has reports whether this node has the service and the backend of an operation.
func (s *State) has(k key) bool {
	known := s.services[k.service]
	return known != nil && (k.backend == "" || slices.Contains(known.backends, k.backend))
}

// Operate records an operation of this node, which others will repeat.
func (s *State) Operate(o Operation, now time.Time) {
	if s.clock < math.MaxUint64 { // else a foreign record has set it: the node's id decides
		s.clock++
	}
	o.Clock, o.Node = s.clock, s.id
	if known := s.services[o.Service]; known == nil { // not observed yet
		if s.services == nil {
			s.services = make(map[string]*service)
		}
		s.services[o.Service] = new(service)
	}
	if o.Backend != "" && !s.has(o.key()) {
		known := s.services[o.Service]
		known.backends = append(slices.Clip(known.backends), o.Backend)
	}
	s.latest[o.key()] = &operation{Operation: o, ends: now.Add(duration(o.Left))}
}

// Record returns the record to publish, with the next sequence number.
func (s *State) Record(now time.Time) Record {
	s.sequence++
	r := Record{Version: version, Node: s.id, Sequence: s.sequence, Beat: milliseconds(s.Beat())}
	for t, n := range s.down {
		r.Down = append(r.Down, Claim{t, n})
	}
	slices.SortFunc(r.Down, func(a, b Claim) int { return compareTargets(a.Target, b.Target) })
	for _, o := range s.latest {
		out := o.Operation
		out.Left = milliseconds(o.ends.Sub(now))
		r.Operations = append(r.Operations, out)
	}
	slices.SortFunc(r.Operations, func(a, b Operation) int {
		return cmp.Or(cmp.Compare(a.Clock, b.Clock), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Kind, b.Kind))
	})
	return r
}

func compareTargets(a, b Target) int {
	return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Backend, b.Backend), cmp.Compare(a.Network, b.Network))
}

// Beat returns the time between two heartbeats. It grows with the fleet, because each
// heartbeat of a node is read by all others.
func (s *State) Beat() time.Duration {
	return min(max(minBeat, time.Duration(len(s.peers)+1)*beatPerNode), maxBeat)
}

// Merge takes over the record of another node, and returns what this node must do.
// Records of this node, and those that were merged already, change nothing.
func (s *State) Merge(r Record, now time.Time) (actions []Action) {
	if r.Node == s.id {
		return nil
	}
	p := s.peers[r.Node]
	switch {
	case p == nil:
		p = &peer{old: !s.scanned}
		s.peers[r.Node] = p
		actions = append(actions, Action{Do: Joined, Node: r.Node})
	case r.Sequence <= p.sequence: // read before, or an old copy
		return nil
	case p.vanished:
		actions = append(actions, Action{Do: Joined, Node: r.Node})
		p.old = false
	default:
		p.old = false
	}
	p.sequence, p.advanced, p.beat, p.vanished = r.Sequence, now, r.beat(), false
	actions = append(actions, s.claim(r.Node, p, r.Down)...)
	resumes := func(o Operation) bool { return o.Kind == Drain && !o.On }
	for _, first := range []bool{true, false} { // a pool refuses to drain its last backend, so others are resumed first
		for _, o := range r.Operations {
			if resumes(o) != first {
				continue
			}
			if a, ok := s.repeat(o, p.old, now); ok {
				actions = append(actions, a)
			}
		}
	}
	return actions
}

// claim replaces the claims of a peer. A claim is a reason for a suspicion once: when
// it is new, or when its number shows another outage.
func (s *State) claim(node string, p *peer, down []Claim) (actions []Action) {
	before := p.down
	p.down = make(map[Target]uint64, len(down))
	for _, c := range down {
		if !s.has(key{service: c.Service, backend: c.Backend}) {
			continue // it is new again when this node has the backend
		}
		p.down[c.Target] = c.Demotions
		if n, known := before[c.Target]; !known || n != c.Demotions {
			actions = append(actions, Action{Do: Suspect, Node: node, Target: c.Target})
		}
	}
	return append(actions, s.withdraw(node, before)...)
}

// withdraw returns the actions for claims of a node that no node has any more.
func (s *State) withdraw(node string, before map[Target]uint64) (actions []Action) {
	for t := range before {
		if !s.claimed(t) {
			actions = append(actions, Action{Do: Unsuspect, Node: node, Target: t})
		}
	}
	slices.SortFunc(actions, func(a, b Action) int { return compareTargets(a.Target, b.Target) })
	return actions
}

// claimed reports whether another node claims that a target is down.
func (s *State) claimed(t Target) bool {
	for _, p := range s.peers {
		if _, down := p.down[t]; down {
			return true
		}
	}
	return false
}

// repeat takes over an operation if it is the latest one. It returns the action that
// repeats it here, if there is one. A hold or drill of an old record may have ended
// since: it is taken over when the record advances.
func (s *State) repeat(o Operation, old bool, now time.Time) (a Action, ok bool) {
	s.clock = max(s.clock, o.Clock) // also of services that this node does not have
	k := o.key()
	if !s.has(k) {
		return Action{}, false
	}
	if known := s.latest[k]; known != nil && !o.after(&known.Operation) {
		return Action{}, false
	}
	if old && o.temporary() && o.Left > 0 {
		return Action{}, false
	}
	s.latest[k] = &operation{Operation: o, ends: now.Add(duration(o.Left))}
	switch {
	case o.Kind == Reset && o.Node == s.id:
		return Action{}, false // this node has forgotten it, as a reload has removed the service
	case o.Kind == Reset && !s.services[o.Service].joined:
		return Action{}, false // it was for a state that this node does not have
	case o.temporary() && o.Left <= 0:
		return Action{}, false // ended by itself
	}
	return Action{Do: Repeat, Node: o.Node, Operation: o}, true
}

// Temporary reports whether a hold or drill lasts, so that a new node needs to know how
// long.
func (s *State) Temporary(now time.Time) bool {
	for _, o := range s.latest {
		if o.temporary() && o.ends.After(now) {
			return true
		}
	}
	return false
}

// Scanned ends the merges of all records that exist. nodes are those of the records.
// It returns the actions for nodes that have left or vanished.
func (s *State) Scanned(nodes []string, now time.Time) (actions []Action) {
	s.scanned = true
	for _, known := range s.services {
		known.joined = true
	}
	own := s.Beat()
	for _, node := range slices.Sorted(maps.Keys(s.peers)) {
		p := s.peers[node]
		before := p.down
		switch {
		case !slices.Contains(nodes, node):
			delete(s.peers, node)
			if !p.vanished {
				actions = append(actions, Action{Do: Left, Node: node})
			}
		case !p.vanished && now.Sub(p.advanced) > missedBeats*max(own, p.beat)+own:
			p.vanished, p.down = true, nil
			actions = append(actions, Action{Do: Vanished, Node: node})
		default:
			continue
		}
		actions = append(actions, s.withdraw(node, before)...)
	}
	return actions
}

// Resume restarts the expiry of all nodes, after a time in which this node could not
// read their records.
func (s *State) Resume(now time.Time) {
	for _, p := range s.peers {
		p.advanced = now
	}
}

// Abandoned returns the nodes that vanished longer ago than after.
func (s *State) Abandoned(after time.Duration, now time.Time) (nodes []string) {
	for node, p := range s.peers {
		if p.vanished && now.Sub(p.advanced) > after {
			nodes = append(nodes, node)
		}
	}
	slices.Sort(nodes)
	return nodes
}

// Peer describes another node.
type Peer struct {
	Node     string
	Age      time.Duration // since its record has advanced
	Vanished bool
	Down     []Target // that it claims
}

// Peers returns the other nodes, sorted by id.
func (s *State) Peers(now time.Time) (list []Peer) {
	for node, p := range s.peers {
		list = append(list, Peer{node, now.Sub(p.advanced), p.vanished, slices.SortedFunc(maps.Keys(p.down), compareTargets)})
	}
	slices.SortFunc(list, func(a, b Peer) int { return cmp.Compare(a.Node, b.Node) })
	return list
}
