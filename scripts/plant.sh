#!/bin/sh
# Plants bugs, one at a time, in a copy of the tree and wants the named test to
# pass before and to fail for each. A bug whose place is not found exactly once, or that does not
# build, fails the run: the list below must follow the code.
#
# usage: plant.sh [WORD], only the bugs whose line holds WORD
set -eu
cd "$(dirname "$0")/.."
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
git ls-files -co --exclude-standard | tar -cf - -T - | tar -xf - -C "$tree"
cd "$tree"
bad=0
n=0

# plant FILE OLD NEW PACKAGE TEST
plant() {
	case "$*" in *"$only"*) ;; *) return 0 ;; esac
	n=$((n + 1))
	cp "$1" saved
	if ! go test -count=1 -run "^$5\$" "$4" >out 2>&1 || grep -q 'no tests to run' out; then
		cat out
		echo "FAILS UNPLANTED $5 ($4)"
		bad=$((bad + 1))
	elif ! OLD=$2 NEW=$3 perl -0pi -e '$n = s/\Q$ENV{OLD}\E/$ENV{NEW}/g; END { exit($n == 1 ? 0 : 1) }' "$1"; then
		echo "NOT FOUND ONCE  $1: $2"
		bad=$((bad + 1))
	elif ! go test -count=1 -run '^$' "$4" >out 2>&1; then
		cat out
		echo "DOES NOT BUILD  $1: $2"
		bad=$((bad + 1))
	elif go test -count=1 -run "^$5\$" "$4" >out 2>&1; then
		echo "NOT CAUGHT      $1: $2 (by $5)"
		bad=$((bad + 1))
	elif ! grep -q -- "--- FAIL: $5" out; then
		cat out
		echo "OTHER FAILURE   $1: $2 (want $5 to fail)"
		bad=$((bad + 1))
	else
		echo "caught          $1: $2 (by $5)"
	fi
	cp saved "$1"
}

only=${1:-}
plant cow/page.go 'return rs, rs.bad("checksum mismatch")' '_ = rs' ./cow TestPageRoundTrip
plant volume/write.go 'if d.fenced.Load() { // V4' 'if false && d.fenced.Load() { // V4' ./volume TestStaleWriteNeverLands
plant segment/sync.go 'return l.fail(err, fmt.Sprintf("sync segment %d", s.id))' 'return fmt.Errorf("sync segment %d: %w", s.id, err)' ./segment TestFaults
plant segment/sync.go 'return l.fail(err, fmt.Sprintf("write segment %d at block %d", c.seg.id, c.pos))' 'return err' ./segment TestFaults
plant volume/read.go 'es[i].Sum {' 'es[i].Sum && false {' ./check TestDamageAnywhere
plant segment/sync.go 'for c.writing > 0 {' 'for false {' ./segment TestHeaderAwaitsPayload
plant segment/settle.go 'for c.writing > 0 && l.open == c {' 'for false {' ./segment TestHeaderAwaitsPayload
plant segment/append.go 'func (l *Log) writeDirect(c *chunk, at uint32, data []byte) error {
	l.awaitZeros(c)' 'func (l *Log) writeDirect(c *chunk, at uint32, data []byte) error {' ./segment TestZerosBeforeData
plant volume/write.go 'if err == nil || w.s.log.Fault() == nil {' 'if true {' ./volume TestReadAfterFailedWrite
plant segment/sync.go 'err = f.SyncData()' '_ = f' ./volume TestCrashMatrix
plant volume/write.go 'defer l.Lock(sp.first, sp.count).Unlock()' '' ./volume TestConcurrentHistories
plant cow/fold.go 'case !upper.isOwn(i):' 'case !upper.isOwn(i) || lower.addr[i] > zeroAddr:' ./volume TestModel
plant segment/file.go 's.blank = unfinishedHeader(b[:], l.o.StoreID, s.id)' 's.blank = b == [block.Size]byte{}' ./volume TestCrashMatrixOfRandomRuns
plant segment/settle.go 'func (l *Log) Settle() error {' 'func (l *Log) Settle() error { return nil }; func (l *Log) settleNot() error {' ./cmd/slackerd TestKillUnderLoad
plant volume/catalog.go 'x.Commit(true)' 'x.Commit(false)' ./volume TestCrashMatrix
plant volume/lend.go '!= es[i].Sum' '!= es[i].Sum && false' ./volume TestLendIsVerified
plant segment/file.go 'kept = spare != "" && !s.lent.Load()' 'kept = spare != ""' ./segment TestLentPagesStay
plant cow/checkpoint.go 'case s.end != end:' 'case false:' ./cow TestJournalCutAtAFrame
plant cow/fold.go 'y.live[lower.addr[i].Segment()]--' '' ./cow TestMerge
plant cow/flat.go ' || p.entry(at) == stale)' ')' ./cow TestFlatPages
plant cow/remove.go 'x.deleteFlats(l.ID)' '' ./cow TestFlatPagesGo
plant cow/fold.go 'x.deleteFlats(w.ID)' '' ./cow TestFlatPages
plant cow/walk.go 'flat == flatThere && !own && w.underFlat(a)' 'flat == flatThere && w.underFlat(a)' ./cow TestFlatPages
plant cow/walk.go 'w.unsettled = n.newest.Load() > w.t.committed.Load()' '' ./cow TestNoFlatPageBeforeCommit
plant cow/resolve.go 'below.newest.Load() <= t.committed.Load()' 'true' ./cow TestNoFlatPageBeforeCommit
plant cow/walk.go 'flat == flatThere && !own && w.underFlat(a)' 'false' ./cow TestFirstTouchOfDeepPage
plant nbdserver/wire.go '		b = be.AppendUint64(b, r.offBytes)
		return be.AppendUint64(b, uint64(lengthBytes))' '		b = be.AppendUint64(b, 0)
		return be.AppendUint64(b, uint64(lengthBytes))' ./nbdserver TestExtendedReplies
plant nbdserver/transmit.go 'c.dropPayload(r.payloadBytes)' 'error(nil)' ./nbdserver TestPayloads
plant nbdserver/input.go 'limit = block.MaxRequestBytes // the' 'limit = 1 << 62 // the' ./nbdserver TestPayloads
plant nbdserver/command.go 'r.lengthBytes > c.info.SizeBytes-r.offBytes' 'r.offBytes+r.lengthBytes > c.info.SizeBytes' ./nbdserver TestLongLengths
plant nbdserver/status.go '|| want&(1<<(id-1)) != 0' '' ./nbdserver TestStatusOfContexts
plant nbdserver/status.go 'min(r.lengthBytes, maxStatusBytes)' 'r.lengthBytes' ./nbdserver TestStatusIsBounded
plant nbdserver/negotiate_export.go ' && c.metaFor == name {' ' {' ./nbdserver TestStatusPayloadFlag
plant nbdserver/negotiate_tls.go 'c.headers, c.metaFor, c.contexts = compact, "", nil' 'c.headers = compact' ./nbdserver TestStartTLSForgets
plant nbdserver/negotiate_meta.go 'c.contexts = nil // they' '_ = 0 // they' ./nbdserver TestMetaContextScope
plant nbdserver/server.go 'pause = min(2*pause, longestAcceptPause)' 'pause = 0' ./nbdserver TestNoDescriptors
plant nbdserver/server.go 'semaphore.NewWeighted(int64(o.Limits.TotalBytes))' 'semaphore.NewWeighted(1 << 40)' ./nbdserver TestTotalBytes
plant volume/changed.go '(a.IsData() || b.IsData())' 'a.IsData()' ./volume TestChanged
plant cmd/slackerd/contexts.go 'access.Read, name); err != nil' 'access.Read, name); err != nil && false' ./cmd/slackerd TestDirtyContext
plant volume/unused.go 'if other != v && strings' 'if false && strings' ./volume TestDeleteUnused
plant volume/unused.go 'r.LastUsed = s.o.Now()' '_ = s.o.Now()' ./volume TestDeleteUnused
plant snapshotter/prepare.go 'pin, err := s.clone(ctx, place)' 'pin, err := s.fresh(), error(nil)' ./snapshotter TestPruneRace
plant snapshotter/locks.go 'case <-ctx.Done():' 'case <-context.Background().Done():' ./snapshotter TestEveryCallHasADeadline
plant snapshotter/volumes.go 'v.o.Timeout, block' '30*v.o.Timeout, block' ./snapshotter TestEveryCallHasADeadline
plant snapshotter/usage.go 'max(0, all-below)' 'max(0, all-0*below)' ./snapshotter TestUsageCountsInodes
plant snapshotter/reaper.go 'if condemned, err := s.store.condemned(volume); err != nil || !condemned {' 'if _, err := s.store.condemned(volume); err != nil {' ./snapshotter TestNotOurs
plant image/prune.go 'range chains[1:]' 'range chains[len(chains):]' ./snapshotter TestPrune

echo "$((n - bad)) of $n caught"
[ "$bad" = 0 ] && [ "$n" -gt 0 ]
