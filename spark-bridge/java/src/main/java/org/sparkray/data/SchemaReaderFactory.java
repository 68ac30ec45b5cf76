package org.sparkray.data;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;
import org.apache.spark.sql.catalyst.InternalRow;
import org.apache.spark.sql.catalyst.expressions.GenericInternalRow;
import org.apache.spark.sql.connector.read.InputPartition;
import org.apache.spark.sql.connector.read.PartitionReader;
import org.apache.spark.sql.connector.read.PartitionReaderFactory;
import org.apache.spark.sql.types.DataTypes;
import org.apache.spark.sql.types.StructType;
import org.apache.spark.unsafe.types.UTF8String;
import org.sparkray.SparkRayException;

/**
 * Reads the schema of each block where the block is. What is wrong with a block is a value, not a
 * failure: the driver names the block and decides by the code.
 */
final class SchemaReaderFactory implements PartitionReaderFactory {
  private static final long serialVersionUID = 1L;

  /**
   * {@code same_as}: an earlier block of the same task that has exactly this schema, which is not
   * repeated then.
   */
  static final StructType SCHEMA =
      new StructType()
          .add("block", DataTypes.IntegerType, false)
          .add("same_as", DataTypes.IntegerType, true)
          .add("schema", DataTypes.StringType, true)
          .add("error_code", DataTypes.IntegerType, true)
          .add("error", DataTypes.StringType, true);

  @Override
  public PartitionReader<InternalRow> createReader(InputPartition partition) {
    return new SchemaReader(((SchemaPartition) partition).blocks);
  }

  private static final class SchemaReader implements PartitionReader<InternalRow> {
    /**
     * Blocks of so many bytes together are asked for at once: small stores must have room for them.
     */
    private static final long MOST_BYTES = 2 << 20;

    private final List<RayPartition> blocks;
    private final ArrayDeque<InternalRow> rows = new ArrayDeque<>();
    private int done;
    private InternalRow row;
    private int lastIndex;
    private String lastSchema;

    SchemaReader(List<RayPartition> blocks) {
      this.blocks = blocks;
    }

    @Override
    public boolean next() {
      if (rows.isEmpty() && done < blocks.size()) {
        describeNext();
      }
      row = rows.poll();
      return row != null;
    }

    @Override
    public InternalRow get() {
      return row;
    }

    @Override
    public void close() {}

    private void describeNext() {
      List<RayPartition> batch = new ArrayList<>();
      long bytes = 0;
      while (done < blocks.size()
          && (batch.isEmpty() || bytes + blocks.get(done).size <= MOST_BYTES)) {
        bytes += blocks.get(done).size;
        batch.add(blocks.get(done));
        done++;
      }
      try {
        List<String> descriptions = new ArrayList<>();
        for (RayPartition block : batch) {
          descriptions.add(block.block);
        }
        String answer = DataNative.tableSchemas("[" + String.join(",", descriptions) + "]");
        JsonNode schemas = new ObjectMapper().readTree(answer);
        for (int index = 0; index < batch.size(); index++) {
          rows.add(describe(batch.get(index), schemas.get(index)));
        }
      } catch (JsonProcessingException failure) {
        throw new IllegalStateException("native code answered something else than JSON", failure);
      } catch (SparkRayException failure) {
        for (RayPartition block : batch) {
          rows.add(error(block, failure.getCode(), failure.getMessage()));
        }
      }
    }

    private InternalRow describe(RayPartition block, JsonNode found) {
      JsonNode error = found.get("error");
      if (error != null) {
        return error(block, error.get("code").asInt(), error.get("message").asText());
      }
      String schema = found.get("schema").asText();
      Object[] row = new Object[SCHEMA.length()];
      row[0] = block.index;
      if (schema.equals(lastSchema)) {
        row[1] = lastIndex;
      } else {
        row[2] = UTF8String.fromString(schema);
        lastSchema = schema;
        lastIndex = block.index;
      }
      return new GenericInternalRow(row);
    }

    private static InternalRow error(RayPartition block, int code, String message) {
      Object[] row = new Object[SCHEMA.length()];
      row[0] = block.index;
      row[3] = code;
      row[4] = UTF8String.fromString(message);
      return new GenericInternalRow(row);
    }
  }
}
