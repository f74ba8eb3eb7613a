module github.com/slackerd/slacker/bench/peers/nerdctl

go 1.26.8

require github.com/containerd/nerdctl/v2 v2.1.3

replace github.com/containerd/nerdctl/mod/tigron => ./tigron
