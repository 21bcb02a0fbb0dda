-- Few at any time: a node that has stopped well is not listed any more.
SELECT node FROM nodes WHERE stopping = 1;
