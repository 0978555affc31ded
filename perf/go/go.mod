module nogil_sync/perf

go 1.19
