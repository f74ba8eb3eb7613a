package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/slackerd/slacker/bench/rounds"
)

// load is what fio does to a device.
type load struct {
	name, rw  string
	blockSize string
	depth     int
	fsync     bool // after every write
}

var loads = []load{
	{"4k random read, depth 1", "randread", "4k", 1, false},
	{"4k random read, depth 16", "randread", "4k", 16, false},
	{"4k random write, depth 1", "randwrite", "4k", 1, false},
	{"4k random write, depth 16", "randwrite", "4k", 16, false},
	{"4k write and fsync", "randwrite", "4k", 1, true},
	{"1M sequential read", "read", "1M", 4, false},
	{"1M sequential write", "write", "1M", 4, false},
}

// fioReport is what is used of fio's report.
type fioReport struct {
	Jobs []struct {
		Error       int
		Read, Write struct {
			IOPS      float64
			BWBytes   float64 `json:"bw_bytes"`
			TotalIOs  float64 `json:"total_ios"`
			Latencies struct {
				Percentile map[string]float64
			} `json:"clat_ns"`
		}
	}
}

func measure(ctx context.Context, path string, l load, each time.Duration) (rounds.Sample, error) {
	args := []string{"--name=x", "--filename=" + path, "--direct=1", "--ioengine=libaio", "--rw=" + l.rw, "--bs=" + l.blockSize,
		"--iodepth=" + strconv.Itoa(l.depth), "--time_based", fmt.Sprintf("--runtime=%dms", each.Milliseconds()),
		"--output-format=json", "--percentile_list=50:99", "--norandommap", "--allow_mounted_write=0", "--thread", "--iodepth_batch_complete_max=16"}
	if l.fsync {
		args = append(args, "--fsync=1")
	}
	before, err := machineCPU()
	if err != nil {
		return rounds.Sample{}, err
	}
	var errText bytes.Buffer
	cmd := exec.CommandContext(ctx, "fio", args...)
	cmd.Stderr = &errText
	out, err := cmd.Output()
	if err != nil {
		return rounds.Sample{}, fmt.Errorf("fio: %w: %s", err, errText.String())
	}
	after, err := machineCPU()
	if err != nil {
		return rounds.Sample{}, err
	}
	var r fioReport
	if err := json.Unmarshal(out, &r); err != nil || len(r.Jobs) != 1 || r.Jobs[0].Error != 0 {
		return rounds.Sample{}, fmt.Errorf("fio's report: %w: %.300s", err, out)
	}
	side := r.Jobs[0].Read
	if strings.Contains(l.rw, "write") {
		side = r.Jobs[0].Write
	}
	if side.TotalIOs == 0 {
		return rounds.Sample{}, errors.New("fio did nothing")
	}
	return rounds.Sample{Rate: side.IOPS, MB: side.BWBytes / 1e6, CPUMicros: float64((after - before).Microseconds()) / side.TotalIOs,
		P50Micros: side.Latencies.Percentile["50.000000"] / 1e3, P99Micros: side.Latencies.Percentile["99.000000"] / 1e3}, nil
}

// machineCPU is the time that all processors have been busy.
func machineCPU() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 {
		return 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	var ticks int
	for i, field := range fields[1:8] {
		n, err := strconv.Atoi(field)
		if err != nil {
			return 0, err
		}
		if i != 3 && i != 4 { // idle, iowait
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}
