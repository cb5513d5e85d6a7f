// Batches written and read by Kafka's own Java client, offline: what `src/records/` must read, and who
// must read what it writes.
//
//   java -cp "$HOME/.cache/backpressure-lab/kafka-4.4.0/*" tests/records/JavaBatches.java write DIR
//   java -cp … tests/records/JavaBatches.java read FILE...
//
// `write` makes the java_* seeds of the fuzz target record_batches, which src/records/interop.rs reads
// too; its `expected` knows the same records by the same rules. `read` prints what Java finds.

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.*;
import org.apache.kafka.common.record.internal.*;
import org.apache.kafka.common.record.internal.Record;
import org.apache.kafka.common.utils.internals.BufferSupplier;

public class JavaBatches {
    static final int RECORDS = 20;
    static final long FIRST_OFFSET = 1000;
    static final long FIRST_TIMESTAMP = 1_700_000_000_000L;

    static byte[] bytes(String text) { return text.getBytes(StandardCharsets.UTF_8); }

    static byte[] key(int n) { return n % 3 == 0 ? null : bytes("key-" + n); }

    static byte[] value(int n) {
        return n % 5 == 0 ? null : n % 5 == 1 ? new byte[0] : bytes(("value-" + n + " ").repeat(n));
    }

    static Header[] headers(int n) {
        if (n % 4 != 3) return new Header[0];
        return new Header[] {new RecordHeader("trace", bytes("id-" + n)), new RecordHeader("", null)};
    }

    static MemoryRecords records(Compression compression, int step) {
        var builder = new MemoryRecordsBuilder(ByteBuffer.allocate(1 << 20), RecordBatch.MAGIC_VALUE_V2,
            compression, TimestampType.CREATE_TIME, FIRST_OFFSET, 0, 77, (short) 3, 500, true, false, 9, 1 << 20);
        for (int n = 0; n < RECORDS; n += step)
            builder.appendWithOffset(FIRST_OFFSET + n, FIRST_TIMESTAMP + 10 * n, key(n), value(n), headers(n));
        return builder.build();
    }

    static void save(Path folder, String name, MemoryRecords... sets) throws Exception {
        var out = new java.io.ByteArrayOutputStream();
        for (var set : sets) {
            var buffer = set.buffer().duplicate();
            var bytes = new byte[buffer.remaining()];
            buffer.get(bytes);
            out.write(bytes);
        }
        Files.write(folder.resolve("java_" + name), out.toByteArray());
    }

    public static void main(String[] args) throws Exception {
        switch (args[0]) {
            case "write" -> write(Path.of(args[1]));
            case "read" -> { for (var file : Arrays.copyOfRange(args, 1, args.length)) read(Path.of(file)); }
            default -> throw new IllegalArgumentException("write DIR or read FILE...");
        }
    }

    static void write(Path folder) throws Exception {
        save(folder, "none", records(Compression.NONE, 1));
        save(folder, "gzip", records(Compression.gzip().build(), 1));
        save(folder, "snappy", records(Compression.snappy().build(), 1));
        save(folder, "lz4", records(Compression.lz4().build(), 1));
        save(folder, "zstd", records(Compression.zstd().build(), 1));
        var stamped = records(Compression.lz4().build(), 1);
        stamped.batches().iterator().next().setMaxTimestamp(TimestampType.LOG_APPEND_TIME, FIRST_TIMESTAMP + 7);
        save(folder, "log_append_time", stamped);
        save(folder, "gaps", records(Compression.NONE, 3));
        var markers = new MemoryRecords[2];
        for (var type : new ControlRecordType[] {ControlRecordType.COMMIT, ControlRecordType.ABORT})
            markers[type == ControlRecordType.COMMIT ? 0 : 1] = MemoryRecords.withEndTransactionMarker(
                FIRST_OFFSET + RECORDS, FIRST_TIMESTAMP, 9, 77, (short) 3, new EndTransactionMarker(type, 1));
        save(folder, "transaction", records(Compression.zstd().build(), 1), markers[0], markers[1]);
        save(folder, "compacted", compacted(records(Compression.gzip().build(), 1)),
            compacted(markers[0]));
    }

    /** What compaction leaves when it keeps each fourth record; of a marker nothing but its header. */
    static MemoryRecords compacted(MemoryRecords records) {
        var filter = new MemoryRecords.RecordFilter(FIRST_TIMESTAMP, 1000) {
            @Override protected BatchRetentionResult checkBatchRetention(RecordBatch batch) {
                return new BatchRetentionResult(BatchRetention.RETAIN_EMPTY, false);
            }
            @Override protected boolean shouldRetainRecord(RecordBatch batch, Record record) {
                return !batch.isControlBatch() && (record.offset() - FIRST_OFFSET) % 4 == 3;
            }
        };
        var out = ByteBuffer.allocate(1 << 20);
        records.filterTo(filter, out, BufferSupplier.NO_CACHING, 1 << 20);
        out.flip();
        return MemoryRecords.readableRecords(out);
    }

    static void read(Path file) throws Exception {
        System.out.println(file.getFileName());
        for (var batch : MemoryRecords.readableRecords(ByteBuffer.wrap(Files.readAllBytes(file))).batches()) {
            batch.ensureValid();
            System.out.printf("batch %d..%d %s records=%d producer=%d/%d/%d%n", batch.baseOffset(), batch.lastOffset(),
                batch.compressionType(), batch.countOrNull(), batch.producerId(), batch.producerEpoch(), batch.baseSequence());
            for (var record : batch) {
                record.ensureValid();
                System.out.printf("%d %d %s %s %d%n", record.offset(), record.timestamp(), text(record.key()),
                    text(record.value()), record.headers().length);
            }
        }
    }

    static String text(ByteBuffer bytes) {
        if (bytes == null) return "null";
        var text = StandardCharsets.UTF_8.decode(bytes.duplicate()).toString();
        return text.length() > 40 ? text.length() + "B" : '"' + text + '"';
    }
}
