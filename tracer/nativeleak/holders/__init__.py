"""Who holds the native memory of a process, from outside and with no trace.

Every live block of the allocators, every word of the process that points at one, and from these: blocks that nothing
points at, bytes by holder, bytes by C++ class. The process is read, never stopped.

Another package adds pointers that are found otherwise than by reading words, such as those of a Java heap, by a
*source of edges* (``scan.EdgeSource``):

* ``ranges``: (start, end) of memory that the source covers, which is then not read word by word;
* ``edges()``: asked once a scan; gives pairs of a ``labels.Label`` and an array of addresses (uint64) that this holder
  points at. A label has a kind (``java-class``, ``java-root``), a name for people and more detail.

``run.Options.sources`` takes functions that make one for an open process (``heaps.memory.HeapMemory``). A holder from a
source is asked before variables, regions and stacks, so that a block belongs to the class that holds it. The blocks
that a source may want to look up are in ``heap_table.read_table(...).table`` (``table.BlockTable.look``).
"""
