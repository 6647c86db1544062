package command

import "github.com/KimMachineGun/automemlimit/memlimit"

// limitMemory makes the garbage collector keep within nine tenths of the memory limit of the
// container, or of the machine's memory, as `caddy run` does. GOMEMLIMIT and AUTOMEMLIMIT have
// precedence. An invalid AUTOMEMLIMIT has no effect.
func limitMemory() {
	_, _ = memlimit.Set(memlimit.WithProvider(memlimit.ApplyFallback(memlimit.FromCgroup, memlimit.FromSystem)))
}
